#!/usr/bin/env bash
# Measures a part of FINDINGS.md anew and says which numbers moved: bash studies/reproduce.sh 1.1
#
# The parts are 1.1, 1.2, 1.3, 1.4, beyond and gpu. Each takes an hour or more on two cores, beyond nine hours, 1.1 also
# 12 GB of disk. gpu wants a GPU, and takes a quarter of an hour there.
# Runs, tables and pictures go to runs/reproduced. A part that was interrupted goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
new=runs/reproduced
seeds="0 1 2 3 4"

run() { # SCRIPT NAME FLAGS: a run in $new/NAME
    if [ -e "$new/$2/config.json" ]; then python "$1" --resume "$new/$2"; else python "$1" --out "$new/$2" "${@:3}"; fi
}

compare() { # TABLE RUNS
    python compare.py "${@:2}" --picture "$new/$1.png" --csv "$new/$1.csv"
    moved "$1"
}

moved() { # TABLE
    python -m studies.moved "results/$1.csv" "$new/$1.csv"
}

subset="--image-size 32 --limit 1000 --data mnist"

xavier() { # the runs of vgg16 that both 1.1 and 1.2 compare
    for seed in $seeds; do
        run train.py "vgg16-xavier-$seed" --model vgg16 --init xavier $subset --epochs 6 --seed $seed
    done
}

case "${1-}" in
1.1)
    run train.py vgg16-digits --model vgg16 --image-size 32 --limit 4000 --epochs 3 --data digits
    xavier
    for seed in $seeds; do
        same="--model vgg16 $subset --epochs 6 --seed $seed"
        transfer="--init transfer --weights $new/vgg16-digits/model.pt"
        run train.py "vgg16-default-$seed" --init default $same
        run train.py "vgg16-transfer-$seed" $transfer $same
        run train.py "vgg16-frozen-$seed" $transfer --freeze $same
    done
    compare vgg16 $new/vgg16-{xavier,default,transfer,frozen}-?
    python -m studies.layers $new/vgg16-{xavier,default,transfer}-0 --picture $new/layers.png --csv $new/layers.csv
    ;;
1.2)
    each() { # NAME FLAGS: a run of both networks from each seed
        for seed in $seeds; do
            for model in encoder resnet; do
                run train.py "$model-$1-$seed" --model $model --init xavier --data mnist --seed $seed "${@:2}"
            done
        done
    }
    xavier
    for epochs in 6 100; do
        each $epochs $subset --epochs $epochs
    done
    compare networks $new/vgg16-xavier-? $new/{encoder,resnet}-{6,100}-?
    each pixels18 --image-size 18 --epochs 1
    compare pixels18 $new/{encoder,resnet}-pixels18-?
    for blocks in 2 4 6; do
        each blocks$blocks --image-size 64 --limit 2000 --epochs 5 --n-blocks $blocks
    done
    compare depth $new/{encoder,resnet}-blocks?-?
    python -m studies.layers $new/{encoder,resnet}-blocks6-0 --picture $new/depth_layers.png --csv $new/depth_layers.csv
    ;;
1.3)
    python search.py --grid --data mnist --out $new/grid
    cp $new/grid/results.csv $new/search_grid.csv
    moved search_grid
    python -m studies.search_replay $new/search_grid.csv
    ;;
1.4)
    for count in 100 600 3000 6000 12000; do
        run diagnose.py "diagnosis-$count" --mislabelled $count --remove $count
    done
    python -m studies.wrong_label_shares $new/diagnosis-{100,600,3000,6000,12000}/effect.csv \
        --picture $new/wrong_label_shares.png --csv $new/wrong_label_shares.csv
    moved wrong_label_shares
    ;;
beyond)
    python -m studies.suspect_rankings mnist-{random-100,random-6000,4_9-100,3_to_8-100} fashion-{random-600,random-6000,Pullover_Coat-600,Sandal_Dress-600} \
        --cleanlab --table $new/suspect_rankings.csv
    python -m studies.suspect_rankings mnist-random-{0,600,3000} fashion-random-{0,3000} --table $new/suspect_rankings.csv
    moved suspect_rankings
    ;;
gpu)
    for seed in $seeds; do
        xavier="--init xavier --data mnist --seed $seed"
        run train.py "resnet-one-$seed" --model resnet $xavier --epochs 1
        run train.py "resnet-five-$seed" --model resnet $xavier
        run train.py "vgg16-64-$seed" --model vgg16 $xavier --image-size 64 --epochs 3
    done
    run train.py vgg16-224 --model vgg16 --init xavier --data mnist
    compare gpu $new/resnet-{one,five}-? $new/vgg16-64-? $new/vgg16-224
    python -m studies.cleaning --table $new/cleaning.csv
    ;;
*)
    echo "which part? bash studies/reproduce.sh 1.1, or 1.2, 1.3, 1.4, beyond, gpu" >&2
    exit 2
    ;;
esac
