"""Where credentials lie on a host: nothing here may be, hold or lie under what a compartment is shown.

Names as they are usual, whether they exist now or not: a place may be created while an agent runs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Relative to the home folder.
HOME = (
    # SSH, GPG, certificates
    ".ssh", ".gnupg", ".pki", ".local/share/pki", ".cert", ".minisign", ".config/sops", ".config/age",
    # git and forges
    ".git-credentials", ".config/git/credentials", ".git-credential-cache", ".cache/git", ".gitconfig",
    ".netrc", "_netrc", ".config/gh", ".config/hub", ".config/glab-cli", ".config/tea",
    # packages
    ".npmrc", ".yarnrc", ".yarnrc.yml", ".pypirc", ".config/pip", ".pip", ".config/pypoetry", ".config/uv",
    ".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".bundle/config", ".m2/settings.xml",
    ".m2/settings-security.xml", ".gradle/gradle.properties", ".composer/auth.json", ".nuget/NuGet",
    ".condarc", ".config/containers",
    # clouds
    ".aws", ".boto", ".s3cfg", ".passwd-s3fs", ".config/gcloud", ".azure", ".oci", ".aliyun", ".bluemix",
    ".config/doctl", ".config/hcloud", ".config/rclone", ".fly", ".railway", ".cloudflared", ".wrangler",
    ".vercel", ".local/share/com.vercel.cli", ".config/netlify", ".netlify",
    # infrastructure
    ".kube", ".docker", ".terraform.d", ".terraformrc", ".pulumi", ".vault-token", ".ansible", ".ansible.cfg",
    ".chef", ".config/helm",
    # databases and mail
    ".pgpass", ".my.cnf", ".mylogin.cnf", ".dbeaver", ".dbeaver4", ".local/share/DBeaverData", ".msmtprc",
    ".fetchmailrc", ".smbcredentials",
    # managers and keyrings
    ".local/share/keyrings", ".local/share/kwalletd", ".password-store", ".config/op", ".op", ".1password",
    ".config/1Password", ".config/Bitwarden", ".config/Bitwarden CLI", ".config/keepassxc",
    # agents and editors
    ".claude", ".claude.json", ".codex", ".gemini", ".config/github-copilot", ".copilot", ".cursor",
    ".config/Code", ".config/Cursor", ".vscode", ".vscode-server", ".local/share/opencode",
    ".aider.conf.yml", ".continue", ".codeium", ".config/JetBrains", ".cache/huggingface", ".huggingface",
    ".kaggle", ".config/wandb",
    # browsers
    ".mozilla", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware", ".config/microsoft-edge",
    ".config/vivaldi", ".config/opera",
    # history and start-up
    ".bash_history", ".zsh_history", ".python_history", ".node_repl_history", ".psql_history", ".mysql_history",
    ".sqlite_history", ".lesshst", ".viminfo", ".local/share/fish", ".bashrc", ".bash_profile", ".bash_login",
    ".profile", ".zshrc", ".zshenv", ".zprofile", ".config/fish",
    # our own
    ".config/leasehold", ".local/state/leasehold",
)  # fmt: skip

SYSTEM = (
    "/etc/ssh", "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d",
    "/etc/credstore", "/etc/credstore.encrypted", "/etc/krb5.keytab", "/etc/boto.cfg", "/etc/davfs2",
    "/etc/kubernetes", "/etc/gitlab-runner", "/etc/leasehold", "/etc/pip.conf", "/etc/npmrc", "/etc/netrc",
    "/etc/gitconfig", "/etc/ssl/private", "/boot",
    "/var/lib/systemd", "/var/lib/docker", "/var/lib/jenkins", "/var/lib/kubelet", "/var/log", "/var/spool",
    "/tmp/.X11-unix", "/tmp/.ICE-unix",
)  # fmt: skip

# The host's are not shown; a compartment has its own.
KERNEL = ("/proc", "/sys", "/dev", "/run", "/var/run")

# Settings that package tools keep inside their own folder, where a registry's token may stand. Globs.
IN_TOOLS = (
    "etc/npmrc", "versions/node/*/etc/npmrc", "installs/nodejs/*/etc/npmrc", "tools/image/node/*/etc/npmrc",
    "pip.conf", "versions/*/pip.conf", ".condarc", "condarc", "lib/node_modules/npm/npmrc",
)  # fmt: skip


def conflicts(path: str, homes: Sequence[str]) -> str | None:
    """The place that would be seen, or that is above it, if ``path`` (absolute, canonical) were shown; or ``None``.

    A home folder counts as such, so that neither it nor what lies above it can be shown.
    """
    for place in (*SYSTEM, *KERNEL, *(f"{home.rstrip('/')}/{name}" for home in homes for name in HOME)):
        if within(place, path) or within(path, place):
            return place
    return next((home for home in homes if within(home, path)), None)


def within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; both absolute and canonical."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
