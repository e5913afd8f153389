"""Which files of a workspace may hold secrets, by their names: those of PLACES that occur in projects. Pure.

What the agent reads in their place is made by :mod:`leasehold.node.sandbox.placeholders`.
"""

from __future__ import annotations

# What is done with a file. ENV: the same variables with placeholders. NOTE: nothing of it is shown. KEY: the same, but
# only when a private key is in it; NOT_PUBLIC: unless it is a public one; WORDS: if its content speaks of a secret;
# DATA: unless it is the template of something. TEXT: only the values that look like secrets are replaced.
ENV, NOTE, KEY, NOT_PUBLIC, WORDS, DATA, TEXT = "env", "note", "key", "not-public", "words", "data", "text"

_NAMES = {
    ENV: (".flaskenv", ".dev.vars", ".secrets", "env.local", "env.production"),
    NOTE: (
        ".netrc", "_netrc", ".git-credentials", ".pypirc", ".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf",
        ".s3cfg", ".boto", ".passwd-s3fs", ".htpasswd", ".vault-token", ".vault_pass", ".vault-pass", ".vault_password",
        "vault_pass.txt", ".vault_pass.txt", ".dockercfg", ".dockerconfigjson", ".terraformrc", "terraform.rc",
        "credentials.tfrc.json", "kubeconfig", ".kubeconfig", "credentials", ".credentials", "credentials.db",
        "application_default_credentials.json", "access_tokens.db", "accesstokens.json", ".smbcredentials",
        ".msmtprc", ".fetchmailrc", "secring.gpg", "rclone.conf", ".databrickscfg", "master.key", "oauth_creds.json",
        ".credentials.json", "wallet.dat", "ngrok.yml",
    ),
    WORDS: (
        "auth.json", "token.json", "profiles.yml", "settings-security.xml", "nuget.config", "settings.xml", "hub.yml",
        "hosts.yml", "keystore.properties", "key.properties", "signing.properties",
    ),
    TEXT: (
        ".npmrc", ".yarnrc", ".yarnrc.yml", "pip.conf", "pip.ini", "gradle.properties", "bunfig.toml", "uv.toml",
        ".condarc", "poetry.toml", ".curlrc", ".wgetrc", ".sentryclirc", "sentry.properties", ".gitconfig",
        "sonar-project.properties", ".mcp.json", "mcp.json", ".aider.conf.yml", "opencode.json", "opencode.jsonc",
        "local.properties", ".ansible.cfg", "ansible.cfg",
    ),
}  # fmt: skip
NAMES = {name: rule for rule, names in _NAMES.items() for name in names}

_ENDINGS = {
    ENV: ("env",),
    NOTE: (
        "p12", "pfx", "pkcs12", "p8", "pk8", "jks", "keystore", "bks", "kdb", "kdbx", "ppk", "tfstate", "tfvars",
        "kubeconfig", "secret", "secrets", "token", "agekey", "mobileprovision", "keychain", "keychain-db", "keytab",
    ),
    KEY: ("pem", "asc", "gpg", "pgp", "ovpn", "crt", "cer", "der"),
    NOT_PUBLIC: ("key",),
}  # fmt: skip
ENDINGS = {ending: rule for rule, endings in _ENDINGS.items() for ending in endings}

# Only data is taken by a word in its name: a module called secrets.py is code.
DATA_ENDINGS = frozenset(("json", "yml", "yaml", "toml", "ini", "cfg", "conf", "txt", "xml", "properties", "csv"))
_WORDS = frozenset(("secret", "secrets", "credential", "credentials", "password", "passwords", "passwd", "creds"))
_ACCOUNTS = ("service-account", "service_account", "serviceaccount", "client_secret", "gha-creds", "firebase-adminsdk")
_TEMPLATES = frozenset(("example", "sample", "template", "tmpl", "tpl", "dist", "schema"))

# Folders of which nothing is shown.
HIDDEN_FOLDERS = frozenset((".ssh", ".gnupg", ".secrets", ".password-store", ".azure", ".oci"))
# Names too general to be known without their folder.
_IN_FOLDERS = {
    ".docker": ("config.json",), ".kube": ("config",), ".aws": ("config",), ".snowsql": ("config",),
    ".bundle": ("config",),
}  # fmt: skip
# Settings of editors and agents, in their folders: tokens stand there for the servers that they start.
SETTINGS = frozenset(("json", "jsonc", "toml", "yml", "yaml", "xml"))


def rule_for(name: str, parent: str) -> str | None:
    """What to do with the file ``name`` in a folder called ``parent``, both folded; ``None`` for nothing."""
    if name in NAMES:
        return NAMES[name]
    stem, _, ending = name.rpartition(".")
    words = frozenset(name.replace("-", ".").replace("_", ".").split("."))
    template = not words.isdisjoint(_TEMPLATES)
    if name.startswith(".env"):
        return None if template else ENV
    if stem and ending in ENDINGS:
        rule = ENDINGS[ending]
        return None if template and rule in (ENV, NOTE) else rule
    if ".tfstate" in name or name.endswith(".tfvars.json"):
        return NOTE
    if name.startswith("id_"):
        return None if ending == "pub" else NOT_PUBLIC
    if ending in DATA_ENDINGS and not template:
        if not words.isdisjoint(_WORDS):
            return DATA
        if ending == "json" and any(word in name for word in _ACCOUNTS):
            return NOTE
    return NOTE if name in _IN_FOLDERS.get(parent, ()) else None
