"""Names of what runs later, outside, without anybody asking for it: when a folder is entered or opened in an editor or
an agent, at a commit, at a start of Python or Node (BOUNDARY F).

Data, and the function that compares names. What somebody starts on purpose (a Makefile, the scripts of package.json,
tests) is the agent's work, to be read before it is run; it is not listed here. Neither are instructions in prose
(AGENTS.md): agents are asked to write them, and they are no code. :data:`TOLD` names them, so that people hear of it.
"""

from __future__ import annotations

# Editors, agents, and tools that act on entering a folder.
FOLDERS = frozenset((
    ".vscode", ".idea", ".run", ".fleet", ".zed", ".vs", ".nova", ".theia", ".externaltoolbuilders", ".devcontainer",
    ".claude", ".codex", ".gemini", ".cursor", ".windsurf", ".continue", ".roo", ".kilocode", ".kiro", ".amazonq",
    ".opencode", ".junie", ".qwen", ".trae", ".augment", ".goose", ".crush", ".factory", ".agents", ".copilot",
    ".clinerules", ".direnv", ".mise", ".husky", ".githooks", ".git-hooks", ".lefthook", ".pre-commit",
))  # fmt: skip

FILES = frozenset((
    ".envrc", ".devcontainer.json", ".exrc", ".vimrc", ".nvimrc", ".nvim.lua", ".lvimrc", ".dir-locals.el",
    ".dir-locals-2.el", ".tool-versions", "pyvenv.cfg",
    ".autoenv", ".autoenv.zsh", "mise.toml", ".mise.toml", "mise.local.toml", ".mise.local.toml",
    ".mcp.json", ".aider.conf.yml", ".aider.conf.yaml", ".aider.model.settings.yml", ".aider.model.metadata.json",
    ".cursorrules", ".windsurfrules", ".clinerules", ".roomodes", "opencode.json", "opencode.jsonc", "crush.json",
    ".crush.json", "leasehold.toml",
    ".pre-commit-config.yaml", ".pre-commit-config.yml", "lefthook.yml", "lefthook.yaml", "lefthook.toml",
    "lefthook.json", ".lefthook.yml", ".lefthook.yaml", ".lefthook.toml", ".lefthook.json", "lefthook-local.yml",
    ".lefthook-local.yml", ".overcommit.yml", ".huskyrc", ".huskyrc.json", ".huskyrc.js", ".lfsconfig",
))  # fmt: skip

ENDINGS = frozenset(("code-workspace", "sublime-project"))

# Must not come into being at the top of a workspace. Each costs a mount, so these are the ones that act by themselves
# on many machines; the others are taken out of the way at the hand-back. All are made as folders: git does not list
# empty ones, so that nobody commits our mount points. (aider fails when its configuration is a folder.)
ABSENT = (
    ".vscode", ".idea", ".zed", ".devcontainer", ".claude", ".codex", ".gemini", ".cursor", ".husky", ".githooks",
    ".direnv", ".envrc", ".mcp.json", ".pre-commit-config.yaml", "leasehold.toml",
)  # fmt: skip

# What package managers install. The agent writes to a copy of its own (F7).
INSTALLED = frozenset(("node_modules", "__pypackages__", ".terraform", ".tox", ".nox", ".pixi", ".eggs"))
# A folder that holds one of these is a Python environment. Only one with a usual name is believed to be nothing else;
# of another one, because a mark is easily made, only the programs and packages are taken to be installed.
ENVIRONMENT_MARKS = frozenset(("pyvenv.cfg", "conda-meta"))
ENVIRONMENTS = frozenset((".venv", "venv", ".virtualenv", "virtualenv", ".conda"))
# Where a new one is expected when the file beside it exists.
EXPECTED = (
    ("node_modules", ("package.json",)),
    (".venv", ("pyproject.toml", "setup.py", "requirements.txt", "Pipfile", "uv.lock")),
)

# Changed or new ones are named at the hand-back: prose that agents obey, and what a pipeline runs after a push.
TOLD = frozenset((
    "agents.md", "claude.md", "claude.local.md", "gemini.md", "qwen.md", "copilot-instructions.md", ".goosehints",
    ".gitlab-ci.yml", ".travis.yml", "jenkinsfile", "azure-pipelines.yml", "bitbucket-pipelines.yml", ".drone.yml",
    "appveyor.yml", ".appveyor.yml", "cloudbuild.yaml", "buildspec.yml",
))  # fmt: skip
TOLD_FOLDERS = frozenset((".github/workflows", ".github/actions", ".circleci", ".buildkite", ".gitlab", ".woodpecker"))

QUARANTINE = ".leasehold-quarantine"


def folded(name: str) -> str:
    """The name as a file system compares it that ignores case, or characters that nobody sees (HFS+), or spaces and
    dots at the end (NTFS): the workspace may lie on one, or be copied to one."""
    low = name.lower()
    if not low.isascii():
        import unicodedata

        low = "".join(c for c in unicodedata.normalize("NFKC", low) if unicodedata.category(c) != "Cf").casefold()
    return low.rstrip(" .") or low
