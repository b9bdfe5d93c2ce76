# Makes a component of a filter in JavaScript. To be sourced by a bash script that has `fail`:
# componentize_js TARGET.wasm SOURCE.js WIT-FOLDER WORLD

js_sdk=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

componentize_js() {
  command -v node >/dev/null && command -v npm >/dev/null ||
    fail "node or npm is missing: install Node.js 20 or later (https://nodejs.org, or 'apt-get install nodejs npm') and try again"
  # The exact versions of the lock file, once.
  local tools=${js_sdk%/*}/.tools
  mkdir -p "$tools"
  # What was fetched for another lock file is fetched anew. preview2-shim stands in package.json because componentize-js imports
  # it without saying so.
  cmp -s "$js_sdk/package-lock.json" "$tools/package-lock.json" || rm -rf "$tools/node_modules"
  cp "$js_sdk"/{package.json,package-lock.json,build.mjs} "$tools"
  if [ ! -e "$tools/node_modules/.package-lock.json" ]; then
    (cd "$tools" && npm ci --silent --no-audit --no-fund) ||
      fail "npm cannot fetch what $js_sdk/package-lock.json names: see above"
  fi
  node "$tools/build.mjs" "$2" "$3" "$4" "$1"
}
