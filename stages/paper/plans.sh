#!/bin/sh
# The table of README.md: what the paper's configurations take on H200s. `make plans` runs it; a row takes 10 to 60 s.
# Where a batch does not fit 8 of them, the same step is made of several.
set -e
ids="--tokenizer stages/paper/tok-ddt.yaml"
row() { ${DDT:-ddt} plan --row true --gpu h200 --config "$@"; }

echo "| configuration | GPUs | weights | batch | GiB a process | TFLOP a step | s a step | images a day | days | checkpoint |"
echo "|---|---|---|---|---|---|---|---|---|---|"
for tokenizer in "ddt 192 2" "selftok512 192 2" "selftok1024 128 3"; do
  set -- $tokenizer
  row "stages/paper/tok-$1.yaml" --gpus 8 --set "data.batch_size=$2" "trainer.accumulate_grad_batches=$3"
  row "stages/paper/tok-$1.yaml" --gpus 8 --nodes 8
done
for llm in gemma2-2b llama3-8b; do
  model="model.llm=stages/paper/$llm"
  row "stages/paper/pretrain-$llm.yaml" $ids --gpus 8 --set "$model"
  row "stages/paper/pretrain-$llm.yaml" $ids --gpus 8 --nodes 8 --set "$model"
done
