"""Git's own http-backend behind nginx, with basic authentication; see :data:`REPOSITORIES`."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

from servers import htpasswd
from servers.base import Place
from servers.nginx import NginxUpstream
from servers.process import Child

USER = "x-access-token"
REPOSITORIES = ("acme/web", "acme/docs", "other/fork")

_LOCATIONS = """
    location ~ ^/(acme|other)/[a-z]+(\\.git)?/ {{
      auth_basic "git";
      auth_basic_user_file {passwords};
      gzip off;
      fastcgi_buffering off;
      fastcgi_request_buffering off;
      fastcgi_pass unix:{socket};
      fastcgi_param SCRIPT_FILENAME {backend};
      fastcgi_param GIT_PROJECT_ROOT {root};
      fastcgi_param GIT_HTTP_EXPORT_ALL "";
      fastcgi_param GIT_PROTOCOL $http_git_protocol;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param REMOTE_ADDR $remote_addr;
    }}
"""


class GitServer(NginxUpstream):
    """``credential`` is the password of :data:`USER`. Each repository has one commit with a ``README``."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.credential = f"ghp/{secrets.token_urlsafe(24)}+="
        self.user = USER
        self._root = place.folder / "repositories"
        for name in REPOSITORIES:
            self._make(name)
        passwords = htpasswd.write(place.folder / "passwords", USER, self.credential)
        socket = place.folder / "fcgi.sock"
        backend = f"{_git('--exec-path')}/git-http-backend"
        child = Child(
            ["/usr/sbin/fcgiwrap", "-f", "-s", f"unix:{socket}"],
            log=place.folder / "fcgiwrap.log",
            env=_environment(),
        )
        self._children.append(child)
        child.wait_until(socket.exists)
        text = _LOCATIONS.format(passwords=passwords, socket=socket, backend=backend, root=self._root)
        self._front(text)

    def clone_url(self, repository: str) -> str:
        return f"{self.url}/{repository}.git"

    def head(self, repository: str, branch: str = "main") -> str:
        """The commit that the server has on ``branch``, or an empty text."""
        done = subprocess.run(
            ["git", "-C", str(self._bare(repository)), "rev-parse", "--verify", "-q", f"refs/heads/{branch}"],
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        return done.stdout.strip()

    def _bare(self, repository: str) -> Path:
        return self._root / f"{repository}.git"

    def _make(self, repository: str) -> None:
        bare = self._bare(repository)
        _git("init", "-q", "--bare", "-b", "main", str(bare))
        _git("-C", str(bare), "config", "http.receivepack", "true")
        blob = _git("-C", str(bare), "hash-object", "-w", "--stdin", stdin=f"This is {repository}.\n")
        tree = _git("-C", str(bare), "mktree", stdin=f"100644 blob {blob}\tREADME\n")
        commit = _git("-C", str(bare), "commit-tree", tree, "-m", "Begin")
        _git("-C", str(bare), "update-ref", "refs/heads/main", commit)


def _git(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["git", *arguments],
        env=_environment(),
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """Git without the settings of whoever runs the tests."""
    person = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _PERSON.items()}
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": path, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **person}


_PERSON = {"NAME": "Test", "EMAIL": "test@forge.test"}
