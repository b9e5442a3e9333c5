"""Translate params of a training into Trainer's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments

from jobs.backbone.architectures import BERTS
from jobs.params import EVALUATION_BATCH, TrainingParams, batch_size, train_batch
from jobs.training.precision import FP32, UsedPrecision


def training_arguments(
    params: TrainingParams,
    output_dir: Path,
    workers: int = 1,
    layers: Sequence[str] = (),
    unused: bool = False,
    precision: UsedPrecision = FP32,
) -> TrainingArguments:
    """Return the TrainingArguments for these params.

    `train_batch` gives the batch size per device, and gradient accumulation makes up the effective batch. `layers` are
    the class names of the layers to shard. With `unused`, some parameters may get no gradient. Raises ParamError when
    the effective batch cannot be divided among the workers.
    """
    strategy = "steps" if params.eval_steps else "epoch"
    every = max(params.eval_steps, 1)
    per_device = train_batch(params, workers)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        seed=params.seed,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.lr_scheduler_type,
        warmup_steps=params.warmup_steps or params.warmup_ratio,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        optim=params.optim,
        bf16=precision.name == "bf16",
        fp16=precision.name == "fp16",
        train_sampling_strategy=params.train_sampling_strategy,
        num_train_epochs=params.num_train_epochs,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=params.effective_batch_size // (per_device * workers),
        per_device_eval_batch_size=batch_size(params, EVALUATION_BATCH),
        eval_strategy=strategy,
        save_strategy=strategy,
        logging_strategy=strategy,
        eval_steps=every,
        save_steps=every,
        logging_steps=every,
        # Report a loss that is not finite, but not of a step that fp16's scaler skips: the weights stay good.
        logging_nan_inf_filter=precision.name == "fp16",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=False,  # the weight of each WorkerBatch does this
        ddp_find_unused_parameters=unused,  # a search in each step, without which workers wait for them in vain
        fsdp=params.fsdp or None,
        fsdp_config={"transformer_layer_cls_to_wrap": list(layers)} if params.fsdp else None,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    # Private in transformers 5.24: without this, Trainer would copy the model to every GPU that this process sees and
    # multiply the effective batch by their number.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def layer_classes(model: torch.nn.Module) -> list[str]:
    """Return the class names of the model's layers. Sharding gathers the weights of one layer at a time."""
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return sorted({type(layer).__name__ for stack in stacks for layer in stack})


def leaves_unused(model: torch.nn.Module) -> bool:
    """Return True if some parameters of the model may get no gradient, as an XLNet's embedding of masked tokens."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return kind != "longformer" and kind not in BERTS
