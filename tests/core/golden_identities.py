"""Settings → the fingerprint that they have had since it was first recorded. A run's folder is named by it: where one of these
changes, runs that people have begun are no longer found. Entries are added, never changed.
"""
OLD = "--least_steps=0 --head_start=zero --optim.scaling=linear"  # what was the default, and is no longer
TABLE = [
    ("ssl.pretrain", "", "c13f616c"),
    ("ssl.pretrain", "--method=byol --data=fashion_mnist --epochs=5", "fb04b3b0"),
    ("ssl.pretrain", "--method=dino --augment=multicrop --seed=3 --optim.lr=0.0005", "8f0608b7"),
    ("ssl.pretrain", "--method=moco_v3_vit --data=folder --data.root=/photos --batch_size=1024", "816f27ef"),
    ("ssl.pretrain", "--method=simclr --data=cifar10 --device=cpu --workers=3 --out=x --until=2 --checks=3", "1389817b"),
    ("ssl.pretrain", "--data=hf:some/set --encoder=resnet50 --stem=small --clip=1 --steps=100 --scratch", "611bf146"),
    ("ssl.pretrain", "--recipe=experiments/recipes/cifar10/vicreg.yaml", "bcf4a2f0"),
    ("linear_eval.finetune", f"--encoder=resnet18 --data=digits --method=layerwise --labels=0.1 --scratch {OLD}", "6a8d80d4"),
    ("linear_eval.finetune", f"--schedule.name=step --schedule.at=[0.5,0.9] --early_stop=3 {OLD}", "ed166b22"),
    ("linear_eval.evaluate", "--encoder=resnet50 --pretrained --parts=[knn,linear] --picture=false", "dee0d93e"),
    ("distill.train", "--teacher=resnet50 --student=resnet18 --method=crd", "fdb3b185"),
    ("distill.train", "--teacher=resnet50 --method=kd_std --cache_gb=1 --beside=a.safetensors", "2d5e39f9"),
    ("distill.train", "--teacher=resnet50 --method=crd --method.kd=0.5 --steps_at=[0.6]", "b1e15363"),
    ("distill.train", "--teacher=resnet50 --method=tokens --teacher_sizes=[160,224] --method.heads=ladder", "ca94ee0b"),
    ("nas.search", "--study=a --trials=9 --space=resnetd --tune=lr --sampler=nsga2", "98974abe"),
    ("nas.supernet", "--space=elastic --subnets=3 --epochs=2", "b76c164e"),
    ("deploy.export", "--encoder=x.safetensors --int8=none --preprocess", "1f29757c"),
    ("deploy.prune", "--encoder=x.safetensors --keep=0.3", "bf9d65f9"),
    ("deploy.latency", "--encoders=resnet18,resnet50 --batches=1,2", "8bce5c95"),
]
