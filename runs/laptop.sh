#!/usr/bin/env bash
# The whole flow on one machine, with your own judgements:
#
#   runs/laptop.sh judgements.jsonl [FOLDER]        FOLDER is made, and holds everything; default: my-first-run
#
# Read it as a table of contents: every step is one command that you can run, stop and change by itself. To see all of this
# work without data of your own, run `manners demo`.
#
#   MODEL=...   the model to teach (default: starter; or a folder, or a Hub id)
#   SEED=0      draws the splits

set -euo pipefail

judgements=${1:?which file of judgements? its layouts are in docs/howto/import.md}
here=${2:-my-first-run}
model=${MODEL:-starter}
seed=${SEED:-0}
configs=$(cd "$(dirname "${BASH_SOURCE[0]}")/../configs" && pwd)

mkdir "$here" # fails where the folder exists: nothing is ever mixed with an earlier run

# 1. Judgements into the store. The layout is recognised; rows that are no judgement go to a file beside yours.
manners import "$judgements" --db "$here/judgements.db"

# 2. Rankings into pairs, split by prompt into train, validation and test. --halves also writes first/ and second/, each with half
#    of the training prompts: two judges that never saw the same prompt.
manners pairs --db "$here/judgements.db" --out "$here/pairs" --seed "$seed" --halves

# 3. Supervised fine-tuning: first learn to say what people preferred. heldout_loss should fall.
manners train sft "$configs/sft.yaml" --run "$here/sft" --data "$here/pairs" --set "model=$model"

# 4. Two reward models on the fine-tuned model, each from its own half. Look at the accuracy on held-out pairs before you go on:
#    near 0.5 nothing was learned, and a policy trained against such a judge can only game it.
manners train reward "$configs/reward.yaml" --run "$here/first-judge" --data "$here/pairs/first" --set "model=$here/sft"
manners train reward "$configs/reward.yaml" --run "$here/second-judge" --data "$here/pairs/second" --set "model=$here/sft" \
  --set seed=1

# 5. PPO against the first judge. The second is only watched: a gain that it does not see is not to be believed.
manners train ppo "$configs/ppo.yaml" --run "$here/ppo" --data "$here/pairs" \
  --set "model=$here/sft" --set "reward.model=$here/first-judge" --set "second_judge.model=$here/second-judge"

# 6. Before and after, on test prompts that nothing was trained on, with intervals; at the temperature of configs/ppo.yaml.
manners evaluate "$here/ppo" --data "$here/pairs" --split test --set temperature=0.7

# 7. One HTML page with the verdict, the curves, the answers side by side, and where everything came from.
manners report "$here/ppo"

# 8. A plain Hugging Face checkpoint of the policy, for whatever serves your models. `manners chat` talks to it at once.
manners export "$here/ppo" "$here/model"
