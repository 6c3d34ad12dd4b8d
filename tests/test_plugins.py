"""The plugin host: what is loaded, who is blamed, and what a component is refused for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd import hookspecs
from agentkd.cli import main
from agentkd.config import PluginSettings
from agentkd.errors import ConfigError, DataError, PluginError
from agentkd.plugins import Component, PluginHost, installed_plugins, nearest
from agentkd.schema import Correction, Task, Value


class Options(Value):
    size: int = 1
    """A size."""


def component(name: str = "part", kind: str = "scorer", **changes: Any) -> Component[Any]:
    return Component(kind, name, "A part.", changes.pop("build", lambda settings, kit: settings), **changes)


class Offers:
    """A plugin that offers the components it is made with."""

    def __init__(self, *components: Any) -> None:
        self._components = components

    @agentkd.hookimpl
    def components(self) -> Iterable[Any]:
        yield from self._components


def host_with(*plugins: tuple[str, object]) -> PluginHost:
    host = PluginHost(auto=False)
    for name, plugin in plugins:
        host.add(plugin, name)
    return host


CORRECTION = Correction(id="cor-1", trajectory_id="tra-1", text="no")


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_component_is_found_by_kind_and_name_and_knows_its_plugin() -> None:
    host = host_with(("mine", Offers(component("b"), component("a"))))
    assert host.registry.names("scorer") == ["a", "b"]
    assert host.registry.get("scorer", "a").plugin == "mine"
    assert [c.name for c in host.registry] == ["a", "b"]


def test_building_validates_the_options() -> None:
    host = host_with(("mine", Offers(component(settings=Options))))
    assert host.registry.build("scorer", "part", {"size": 3}, None) == Options(size=3)
    with pytest.raises(ConfigError, match=r"has no option `sise`.*did you mean `size`"):
        host.registry.build("scorer", "part", {"sise": 3}, None)
    with pytest.raises(ConfigError, match="option `size`"):
        host.registry.build("scorer", "part", {"size": "big"}, None)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    host = host_with(("mine", Offers(component("verifier"))))
    with pytest.raises(ConfigError, match="did you mean `verifier`"):
        host.registry.get("scorer", "verifyer")


def test_a_factory_that_raises_names_its_plugin() -> None:
    def build(settings: Any, kit: Any) -> Any:
        raise ZeroDivisionError("oh")

    host = host_with(("mine", Offers(component(build=build))))
    with pytest.raises(
        PluginError, match=r"plugin `mine` failed in scorer `part`: ZeroDivisionError: oh"
    ) as caught:
        host.registry.build("scorer", "part", {}, None)
    assert caught.value.context["plugin"] == "mine"


def test_a_factory_may_raise_an_error_of_agentkd_as_it_is() -> None:
    def build(settings: Any, kit: Any) -> Any:
        raise DataError("line 3 is broken")

    host = host_with(("mine", Offers(component(build=build))))
    with pytest.raises(DataError, match="line 3"):
        host.registry.build("scorer", "part", {}, None)


def test_two_plugins_with_one_component_are_both_named() -> None:
    with pytest.raises(PluginError, match=r"`first` and `second` both offer the scorer `part`"):
        host_with(("first", Offers(component())), ("second", Offers(component())))


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(PluginError, match="did you mean `scorer`"):
        host_with(("mine", Offers(component(kind="scoerr"))))


def test_what_is_no_component_is_refused() -> None:
    with pytest.raises(PluginError, match="plugin `mine` offered `'text'`"):
        host_with(("mine", Offers("text")))


def test_a_plugin_whose_offer_breaks_is_named() -> None:
    class Broken:
        @agentkd.hookimpl
        def components(self) -> Iterable[Any]:
            yield component()
            raise KeyError("gone")

    with pytest.raises(PluginError, match="plugin `mine` failed in hook `components`: KeyError"):
        host_with(("mine", Broken()))


def test_an_unknown_hook_is_refused_when_the_plugin_is_added() -> None:
    class Typo:
        @agentkd.hookimpl
        def after_ran(self) -> None: ...

    with pytest.raises(PluginError, match="plugin `mine` failed in registration"):
        host_with(("mine", Typo()))


def test_a_hook_that_raises_names_its_plugin() -> None:
    class Broken:
        @agentkd.hookimpl
        def after_correction(self, correction: Correction) -> None:
            raise ValueError("disk")

    class Fine:
        @agentkd.hookimpl
        def after_correction(self) -> None: ...

    host = host_with(("fine", Fine()), ("broken", Broken()))
    with pytest.raises(
        PluginError, match="plugin `broken` failed in hook `after_correction`: ValueError: disk"
    ):
        host.hooks.ask(hookspecs.after_correction, correction=CORRECTION)


def test_refusals_name_every_plugin_that_vetoes() -> None:
    class No:
        @agentkd.hookimpl
        def before_run(self, task: Task) -> bool:
            return False

    class NoOpinion:
        @agentkd.hookimpl
        def before_run(self) -> None: ...

    host = host_with(("one", No()), ("none", NoOpinion()), ("two", No()))
    refusals = host.hooks.refusals(hookspecs.before_run, task=Task(id="t", prompt="p"), model="m")
    assert sorted(refusals) == ["one", "two"]


def test_the_first_opinion_decides() -> None:
    class Due:
        def __init__(self, answer: bool | None) -> None:
            self.answer = answer

        @agentkd.hookimpl
        def is_compile_due(self) -> bool | None:
            return self.answer

    asked = {"n_new_memories": 1, "n_new_trajectories": 1, "expected_gain": 0.0}
    host = host_with(("yes", Due(True)), ("silent", Due(None)))
    assert host.hooks.decide(hookspecs.is_compile_due, **asked) is True
    assert host_with(("silent", Due(None))).hooks.decide(hookspecs.is_compile_due, **asked) is None


def test_offers_say_who_offered_and_read_generators_to_their_end() -> None:
    class Skills:
        def __init__(self, *names: str) -> None:
            self.names = names

        @agentkd.hookimpl
        def skills(self) -> Iterable[Path]:
            for name in self.names:
                yield Path(name)

    host = host_with(("a", Skills("x", "y")), ("b", Skills("z")))
    assert host.hooks.offers(hookspecs.skills) == [("a", Path("x")), ("a", Path("y")), ("b", Path("z"))]


def test_an_offer_that_breaks_half_way_names_its_plugin() -> None:
    class Broken:
        @agentkd.hookimpl
        def skills(self) -> Iterable[Path]:
            yield Path("x")
            raise OSError("no folder")

    with pytest.raises(PluginError, match="plugin `mine` failed in hook `skills`"):
        host_with(("mine", Broken())).hooks.offers(hookspecs.skills)


def test_a_module_is_loaded_by_name_with_its_version(module_folder: Path) -> None:
    (module_folder / "kd_extra.py").write_text(
        "import agentkd\n__version__ = '1.2'\n"
        "@agentkd.hookimpl\ndef components():\n"
        "    yield agentkd.Component('scorer', 'extra', 'Extra.', lambda s, k: 'built')\n"
    )
    host = PluginHost(auto=False, modules=["kd_extra", "kd_extra"])
    assert host.versions == {"kd_extra": "1.2"}
    assert host.registry.build("scorer", "extra", {}, None) == "built"


def test_a_missing_module_is_a_setting_error_and_a_broken_one_a_plugin_error(module_folder: Path) -> None:
    (module_folder / "kd_broken.py").write_text("1 / 0\n")
    (module_folder / "kd_needy.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(ConfigError, match="`kd_missing` cannot be found"):
        PluginHost(auto=False, modules=["kd_missing"])
    with pytest.raises(PluginError, match=r"`kd_broken` failed in its import: ZeroDivisionError"):
        PluginHost(auto=False, modules=["kd_broken"])
    with pytest.raises(PluginError, match="no_such_package_at_all"):
        PluginHost(auto=False, modules=["kd_needy"])


def test_a_blocked_plugin_is_not_loaded() -> None:
    host = PluginHost(auto=False, modules=["no.such.module"], block=["no.such.module", "mine"])
    host.add(Offers(component()), "mine")
    assert host.versions == {}
    assert list(host.registry) == []


@pytest.fixture
def installed(module_folder: Path) -> Path:
    """Two installed plugins whose import leaves a file."""
    for name in ("kd_wanted", "kd_other"):
        mark = module_folder / f"{name}.imported"
        (module_folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
        info = module_folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[agentkd]\n{name} = {name}\n")
    return module_folder


def imported(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.imported"))


def test_without_auto_only_a_listed_plugin_is_imported(installed: Path) -> None:
    settings = PluginSettings(auto=False, allow=("kd_wanted==1.0",))
    listed = {each.name: each for each in installed_plugins(settings)}
    assert (listed["kd_wanted"].is_loaded, listed["kd_other"].is_loaded) == (True, False)
    assert (listed["kd_other"].version, listed["kd_other"].module) == ("1.0", "kd_other")
    assert imported(installed) == []
    assert list(PluginHost.chosen(settings).versions) == ["kd_wanted"]
    assert imported(installed) == ["kd_wanted"]
    assert "kd_other" in PluginHost(auto=True, block=["bfcl", "llb", "builtins"]).versions
    assert imported(installed) == ["kd_other", "kd_wanted"]  # with auto it would have been


def test_a_listed_plugin_that_is_missing_or_has_changed_is_refused(installed: Path) -> None:
    with pytest.raises(ConfigError, match=r"`kd_wantd`.*did you mean `kd_wanted`"):
        PluginHost(auto=False, allow=["kd_wantd"])
    with pytest.raises(ConfigError, match=r"version 1\.0, and 0\.9 is allowed"):
        PluginHost(auto=False, allow=["kd_wanted==0.9"])
    assert imported(installed) == []


def test_the_list_mode_holds_in_a_workspace_and_on_the_command_line(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agentkd.Workspace.create(tmp_path / "shop").close()
    for path in installed.glob("*.imported"):
        path.unlink()
    for name in ("kd_wanted", "kd_other"):
        sys.modules.pop(name, None)
    listed = [
        "-C",
        str(tmp_path / "shop"),
        "--set",
        "plugins.auto=false",
        "--set",
        'plugins.allow=["kd_wanted"]',
    ]
    assert main([*listed, "plugins", "installed"]) == 0
    assert "kd_other" in capsys.readouterr().out
    assert imported(installed) == []
    assert main([*listed, "plugins", "list", "--json"]) == 0
    assert imported(installed) == ["kd_wanted"]


def test_two_hosts_share_nothing() -> None:
    one, two = PluginHost(auto=False), PluginHost(auto=False)
    one.add(Offers(component()), "mine")
    assert two.registry.names("scorer") == []


def test_nearest_lists_all_where_nothing_is_near() -> None:
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("zzz", []) == "known: none"
