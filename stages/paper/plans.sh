#!/bin/sh
# The table of README.md: what the paper's configurations take on H200s. `make plans` runs it; a row takes 10 to 30 s.
ids="--tokenizer stages/paper/tok-ddt.yaml"
row() { ${DDT:-ddt} plan --row true --gpu h200 --config "$@"; }

echo "| configuration | GPUs | weights | batch | GiB a process | TFLOP a step | s a step | images a day | days | checkpoint |"
echo "|---|---|---|---|---|---|---|---|---|---|"
for tokenizer in ddt selftok512 selftok1024; do
  row "stages/paper/tok-$tokenizer.yaml" --gpus 8
  row "stages/paper/tok-$tokenizer.yaml" --gpus 8 --nodes 8
done
for llm in gemma2-2b llama3-8b; do
  model="model.llm=stages/paper/$llm"
  row "stages/paper/pretrain-$llm.yaml" $ids --gpus 8 --set "$model"
  row "stages/paper/pretrain-$llm.yaml" $ids --gpus 8 --nodes 8 --set "$model"
done
