#!/usr/bin/env bash
# A run that hacks its reward, without guards and with them; docs/howto/reward-hacking.md tells what came of it.
#
#   runs/hacking.sh [FOLDER]        FOLDER is made, and holds everything; default: hacking
#
# On the starter model and the built-in prompts: minutes for each run and each evaluation, on two cores.

set -euo pipefail

here=${1:-hacking}
cd "$(dirname "${BASH_SOURCE[0]}")/.." # where the judges in runs/hacking_judges.py are found
mkdir "$here"

# 1. The same run twice: nobody watches, and the guards of configs/hacking.yaml do.
manners train ppo configs/hacking.yaml --run "$here/unguarded" --set 'guards=[]'
manners train ppo configs/hacking.yaml --run "$here/guarded"

# And with a guard that goes back instead of stopping, without and with a price on the shift.
roll='guards=[{signal: second_judge, limit: 1, patience: 2}, {signal: distinct_2, limit: 0.8, action: roll_back}]'
manners train ppo configs/hacking.yaml --run "$here/rolling" --set "$roll"
manners train ppo configs/hacking.yaml --run "$here/dearer" --set "$roll" --set beta=0.05

# 2. What each of them kept, on test prompts that neither has seen.
manners import src/manners/starter/judgements.jsonl --db "$here/starter.db"
manners pairs --db "$here/starter.db" --out "$here/pairs"
for run in unguarded guarded; do
  manners evaluate "$here/$run" --data "$here/pairs" --set temperature=0.7 --set max_tokens=32
  manners report "$here/$run"
done

# 3. The curves side by side.
python runs/hacking_curves.py "$here/curves.svg" "$here/unguarded" "$here/guarded"
