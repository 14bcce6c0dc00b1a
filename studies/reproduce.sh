#!/usr/bin/env bash
# Repeats a measurement: bash studies/reproduce.sh 1.1 | 1.2 | 1.3 | 1.4 | rankings | human | cleaning | gpu
# Results go to runs/reproduced. After an interruption, repeat the command to continue.
set -euo pipefail
cd "$(dirname "$0")/.."
new=runs/reproduced
small="--image-size 32 --limit 1000 --data mnist --threads 1"

run() { # SCRIPT NAME FLAGS
    if [ -e "$new/$2/config.json" ]; then python "$1" --resume "$new/$2"; else python "$1" --out "$new/$2" "${@:3}"; fi
}
seeds() { # NAME FLAGS: a training for each of five seeds
    for seed in 0 1 2 3 4; do run train.py "$1-$seed" --init xavier "${@:2}" --seed $seed; done
}
table() { python $2 "${@:3}" --picture "$new/$1.png" --csv "$new/$1.csv"; } # NAME COMMAND RUNS

case "${1-}" in
1.1)
    run train.py digits --model vgg16 --image-size 32 --limit 4000 --epochs 3 --data digits --threads 1
    transfer="--init transfer --weights $new/digits/model.pt"
    for start in xavier "default --init default" "transfer $transfer" "frozen $transfer --freeze"; do
        seeds vgg16-$start --model vgg16 $small --epochs 6
    done
    table vgg16 compare.py $new/vgg16-{xavier,default,transfer,frozen}-?
    table layers "-m studies.layers" $new/vgg16-{xavier,default,transfer}-0 ;;
1.2)
    seeds vgg16-xavier --model vgg16 $small --epochs 6
    for model in encoder resnet; do
        for n in 6 30; do seeds $model-$n --model $model $small --epochs $n; done
        seeds $model-18 --model $model --data mnist --image-size 18 --epochs 1 --threads 1
        seeds $model-deep --model $model --n-blocks 6 --data mnist --image-size 64 --limit 2000 --epochs 20 --threads 1
    done
    table networks compare.py $new/vgg16-xavier-? $new/{encoder,resnet}-{6,30}-?
    table pixels18 compare.py $new/{encoder,resnet}-18-?
    table depth compare.py $new/{encoder,resnet}-deep-?
    table depth_layers "-m studies.layers" $new/{encoder,resnet}-deep-0 ;;
1.3) python search.py --grid --data mnist --out $new/grid ;;
1.4)
    for n in 100 600 3000 6000 12000; do run diagnose.py diagnosis-$n --mislabelled $n --remove $n; done
    python -m studies.rankings mnist-random-{600,6000} --cleaning --csv $new/draws.csv ;;
rankings) # after pip install cleanlab
    python -m studies.rankings mnist-{random-{0,100,600,3000,6000},4_9-100,3_to_8-100} --cleanlab --csv $new/mnist.csv
    python -m studies.rankings fashion-{random-{0,600,3000,6000},Pullover_Coat-600,Sandal_Dress-600} --cleanlab --csv $new/fashion.csv ;;
human) # needs cleanlab, CIFAR-10 as image folders in data/cifar, CIFAR-10N in the other two
    python -m studies.rankings data/cifar:data/cifar_mislabelled_{aggre,random} --cleanlab --csv $new/human.csv ;;
cleaning)
    for flags in "--epochs 10" "--epochs 20" "--epochs 10 --no-augment" "--epochs 20 --no-augment"; do
        python -m studies.rankings fashion-random-{100,200,400} --images 2000 --cleaning $flags --csv "$new/cleaning${flags// /}.csv"
    done ;;
gpu)
    for n in 1 5; do seeds gpu-$n --data mnist --epochs $n; done
    seeds gpu-64 --model vgg16 --data mnist --image-size 64 --epochs 3
    run train.py gpu-224 --model vgg16 --init xavier --data mnist
    table gpu compare.py $new/gpu-* ;;
*) sed -n 2p studies/reproduce.sh >&2 && exit 2 ;;
esac
