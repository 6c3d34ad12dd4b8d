"""INTEROP: memories from other systems and to them; nothing is stored before it was admitted.

One small module per format: a reader gives `Imported` candidates, a writer gives text. `admit_imported`
offers them to the memory store like any other candidate.
"""

from __future__ import annotations

from agentkd.interop.ace import dump_ace, read_ace
from agentkd.interop.admission import ImportReport, admit_imported, preview
from agentkd.interop.evidence import admit_evidence, evidence_of
from agentkd.interop.format import FORMATS, detect, read_foreign, write_foreign
from agentkd.interop.imported import Imported, Skipped
from agentkd.interop.item import with_life
from agentkd.interop.langmem import dump_langmem, read_langmem
from agentkd.interop.leak import refuse_leaks
from agentkd.interop.mem0 import dump_mem0, read_mem0
from agentkd.interop.openai_trace import read_openai_traces
from agentkd.interop.ownership import left_out, why_left_out
from agentkd.interop.pack import Evidences, dump_pack, read_evidence, read_pack
from agentkd.interop.reme import dump_reme, read_reme
from agentkd.interop.skill import memories_as_skill, read_skills
from agentkd.interop.topic import Strength, Topic, export_skills, strong_memories, topics_of

__all__ = [
    "FORMATS",
    "Evidences",
    "ImportReport",
    "Imported",
    "Skipped",
    "Strength",
    "Topic",
    "admit_evidence",
    "admit_imported",
    "detect",
    "dump_ace",
    "dump_langmem",
    "dump_mem0",
    "dump_pack",
    "dump_reme",
    "evidence_of",
    "export_skills",
    "left_out",
    "memories_as_skill",
    "preview",
    "read_ace",
    "read_evidence",
    "read_foreign",
    "read_langmem",
    "read_mem0",
    "read_openai_traces",
    "read_pack",
    "read_reme",
    "read_skills",
    "refuse_leaks",
    "strong_memories",
    "topics_of",
    "why_left_out",
    "with_life",
    "write_foreign",
]
