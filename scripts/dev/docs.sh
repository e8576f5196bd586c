#!/usr/bin/env bash
# Build the pages as a site in site/ that is read offline in a browser, with search in both languages.
# 把文档做成可离线浏览的网站，放在 site/ 中，两种语言都能搜索。
set -euo pipefail
source "$(dirname "$0")/../lib/settings.sh"

cd "$ROOT"
python=site/.venv/bin/python
bash scripts/support/bootstrap.sh "$ROOT/site/.venv" requirements/docs.txt
build() { # build LANG OTHER NAME
  local work=site/.work/$1 nav
  run rm -rf "$work" "site/$1"
  run mkdir -p "$work/pages"
  run cp docs/site/*.{css,js} "$work/pages"
  run_module "$python" dev.docs_site "$1" "$work/pages"
  nav=$(sed -nE 's/^ *([-*]|[0-9]+\.) \[[^]]*\]\(([^/)]*\.md)\).*/"\2", /p' "docs/$1/README.md" | awk '!seen[$0]++' | tr -d '\n')
  write "$work/zensical.toml" \
    sed "s/LANG/$1/; s/OTHER/$2/; s/NAME/$3/; s/NAV/[\"index.md\", $nav\"project.md\"]/" docs/site/zensical.toml
  run "$python" -I -m zensical build --strict --clean --config-file "$work/zensical.toml"
  run mv "$work/html" "site/$1"
}
build zh en English
build en zh 中文
run cp docs/site/index.html site/index.html
say "用浏览器打开 $ROOT/site/index.html" "Open $ROOT/site/index.html in a browser"
