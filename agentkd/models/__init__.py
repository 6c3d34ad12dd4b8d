"""Models: where they come from, how they are called, and how a small one is kept to valid JSON.

Nothing heavy is loaded here; import the module that you need (`agentkd.models.source`, `.local`, ...).
"""
