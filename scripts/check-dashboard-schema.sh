#!/bin/bash
# Checks dashboards against Grafana's own types: @grafana/schema, by the TypeScript compiler. Each line
# of the output names file, line and field.
#
# usage: check-dashboard-schema.sh [DASHBOARD.json...]; without any, those in grafana/dashboards
source "$(dirname "$0")/common.sh"

schema=11.6.16
typescript=5.9.3
folder=target/tools/grafana-schema

[[ $# -gt 0 ]] || set -- grafana/dashboards/*.json
if ! command -v npm >/dev/null; then
    fail "npm and node are needed; on Debian and Ubuntu: apt-get install npm"
fi
mkdir -p "$folder"
if [[ $(cat "$folder/installed" 2>/dev/null) != "$schema $typescript" ]]; then
    (
        cd "$folder"
        echo '{"private": true}' >package.json
        npm install --silent --no-audit --no-fund --no-package-lock --save-exact --ignore-scripts \
            "@grafana/schema@$schema" "typescript@$typescript"
    )
    echo "$schema $typescript" >"$folder/installed"
fi

# Each becomes a constant of the type, on the same lines, so that the compiler's lines are the file's.
rm -f "$folder"/*.ts
cp scripts/dashboards/schema.ts "$folder/"
declare -A files=()
for file in "$@"; do
    [[ -f $file ]] || fail "no file $file"
    name=dashboard-${#files[@]}.ts
    files[$name]=$file
    { printf 'export const dashboard: import("./schema").Dashboard = '; cat "$file"; } >"$folder/$name"
done

output=$("$folder/node_modules/.bin/tsc" --noEmit --strict --skipLibCheck --pretty false \
    --target es2022 --module esnext --moduleResolution node10 --ignoreDeprecations 5.0 \
    "$folder"/*.ts 2>&1) && exit 0

# The line of the file itself says which field is meant.
while IFS= read -r line; do
    if [[ $line =~ ^([^\(]+)\(([0-9]+),[0-9]+\):\ error\ TS[0-9]+:\ (.*)$ ]]; then
        file=${files[${BASH_REMATCH[1]##*/}]:-${BASH_REMATCH[1]}}
        field=$(sed -n "${BASH_REMATCH[2]}s/^ *//p" "$file")
        printf '%s:%s: %s   %s\n' "$file" "${BASH_REMATCH[2]}" "$field" "${BASH_REMATCH[3]:0:200}" >&2
    elif [[ $line != " "* ]]; then
        printf '%s\n' "$line" >&2
    fi
done <<<"$output"
exit 1
