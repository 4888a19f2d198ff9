#!/bin/sh
# The whole way on a toy world, in the folder $1: raw trees, shards, training, score, zip, pictures.
set -eu
cd "$1"
unset $(env | sed -n "s/^\(LORAT_[A-Z0-9_]*\)=.*/\1/p")  # the demo looks at its own trees only
start=$(date +%s)
lorat-prep toyworld
lorat-prep build --datasets all
lorat-train --variant demo --resume auto
lorat-eval --submit-zip got10k
end=$(date +%s)
echo
echo "Training crops: $PWD/runs/demo-demo/samples.png"
echo "Training curve: $PWD/runs/demo-demo/curves.png"
echo "The whole demo took $(((end - start) / 60)) min $(((end - start) % 60)) s."
