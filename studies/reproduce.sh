#!/usr/bin/env bash
# Runs the commands behind a part of FINDINGS.md: bash studies/reproduce.sh 1.1|1.2|1.3|1.4|rankings|cleaning|gpu
# Runs, tables and pictures go to runs/reproduced. A part that was interrupted continues.
set -euo pipefail
cd "$(dirname "$0")/.."
new=runs/reproduced small="--image-size 32 --limit 1000 --data mnist"
mkdir -p $new

run() { # SCRIPT NAME FLAGS
    if [ -e "$new/$2/config.json" ]; then python "$1" --resume "$new/$2"; else python "$1" --out "$new/$2" "${@:3}"; fi
}
seeds() { # NAME FLAGS: a training from each of five seeds
    for seed in 0 1 2 3 4; do run train.py "$1-$seed" --init xavier "${@:2}" --seed $seed; done
}
table() { # SCRIPT NAME RUNS
    python ${1/layers/-m studies.layers} "${@:3}" --picture "$new/$2.png" --csv "$new/$2.csv"
}
case "${1-}" in
1.1)
    run train.py digits --model vgg16 --image-size 32 --limit 4000 --epochs 3 --data digits
    transfer="--init transfer --weights $new/digits/model.pt"
    for kind in "xavier" "default --init default" "transfer $transfer" "frozen $transfer --freeze"; do
        seeds vgg16-$kind --model vgg16 $small --epochs 6
    done
    table compare.py vgg16 $new/vgg16-{xavier,default,transfer,frozen}-?
    table layers layers $new/vgg16-{xavier,default,transfer}-0 ;;
1.2)
    seeds vgg16-xavier --model vgg16 $small --epochs 6
    for model in encoder resnet; do
        for epochs in 6 100; do seeds $model-$epochs --model $model $small --epochs $epochs; done
        seeds $model-18 --model $model --image-size 18 --epochs 1 --data mnist
        for n in 2 4 6; do seeds $model-depth$n --model $model --image-size 64 --limit 2000 --epochs 20 --n-blocks $n --data mnist; done
    done
    table compare.py networks $new/vgg16-xavier-? $new/{encoder,resnet}-{6,100}-?
    table compare.py pixels18 $new/{encoder,resnet}-18-?
    table compare.py depth $new/{encoder,resnet}-depth?-?
    table layers depth_layers $new/{encoder,resnet}-depth6-0 ;;
1.3) python search.py --grid --data mnist --out $new/grid ;;
1.4)
    for n in 100 600 3000 6000 12000; do run diagnose.py diagnosis-$n --mislabelled $n --remove $n; done
    python -m studies.rankings mnist-random-{600,6000} --cleaning --csv $new/draws.csv ;;
rankings)
    python -m studies.rankings mnist-{random-100,random-6000,4_9-100,3_to_8-100} \
        fashion-{random-600,random-6000,Pullover_Coat-600,Sandal_Dress-600} --cleanlab --csv $new/rankings.csv
    python -m studies.rankings mnist-random-{0,600,3000} fashion-random-{0,3000} --csv $new/estimates.csv ;;
cleaning)
    for flags in "" "--epochs 20" "--epochs 20 --no-augment" "--no-augment"; do
        python -m studies.rankings fashion-random-{100,200,400} --images 2000 --cleaning $flags --csv "$new/cleaning$flags.csv"
    done ;;
gpu)
    for epochs in 1 5; do seeds gpu-$epochs --epochs $epochs --data mnist; done
    seeds gpu-64 --model vgg16 --image-size 64 --epochs 3 --data mnist
    table compare.py gpu $new/gpu-* ;;
*) echo "which part? bash studies/reproduce.sh 1.1, or 1.2, 1.3, 1.4, rankings, cleaning, gpu" >&2 && exit 2 ;;
esac
