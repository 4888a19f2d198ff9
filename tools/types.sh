#!/bin/sh
# Type-checks the packages under the names they are installed by: lorat.shards is the folder shards.
set -eu
rm -rf .links
mkdir -p .links/lorat
for package in shards prep train evaluate configs; do
    ln -s "../../$package" ".links/lorat/$package"
done
ln -s ../benchmarks .links/benchmarks
cd .links
"$1/mypy" --config-file ../pyproject.toml --namespace-packages --explicit-package-bases lorat benchmarks
