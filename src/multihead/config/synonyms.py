"""Words of other frameworks for our keys. Whoever types one of them is shown ours."""

from __future__ import annotations

STEPS = "trainer.max_steps (in steps, not epochs)"
TOKENS = "data.batch_tokens (in tokens, not examples)"
LAYERS = "model.num_encoder_layers and model.num_decoder_layers"
OURS = {
    "optim.lr": "lr learning_rate max_lr peak_lr base_lr initial_lr",
    TOKENS: "batch_size train_batch_size global_batch_size max_tokens bsz batch",
    "data.part_tokens (in tokens, not examples)": "per_device_train_batch_size micro_batch_size device_batch_size",
    "data.eval_tokens (in tokens, not examples)": "eval_batch_size per_device_eval_batch_size val_batch_size",
    STEPS: "epochs epoch max_epochs num_epochs num_train_epochs n_epochs max_epoch",
    "trainer.max_steps": "steps max_iters num_steps train_steps total_steps num_iterations max_update iterations",
    "model.d_model": "hidden_size n_embd embed_dim embedding_dim hidden_dim emb_dim emb_size d_embed dim "
    "width n_hidden",
    "model.d_ff": "ffn_dim intermediate_size dim_feedforward d_ffn ffn_size mlp_dim feedforward_dim d_inner",
    LAYERS: "n_layer n_layers num_layers num_hidden_layers layers depth nlayers",
    "model.num_encoder_layers": "encoder_layers n_encoder_layers enc_layers",
    "model.num_decoder_layers": "decoder_layers n_decoder_layers dec_layers",
    "model.num_heads": "n_head n_heads nhead heads num_attention_heads attention_heads",
    "model.max_len": "seq_len max_seq_len max_length max_seq_length context_length sequence_length n_ctx block_len "
    "max_position_embeddings context_size",
    "model.dropout": "p_drop dropout_rate hidden_dropout_prob resid_dropout",
    "precision=bf16-mixed": "bf16 amp mixed_precision bfloat16",
    "precision=16-mixed": "fp16 half float16",
    "precision": "dtype torch_dtype",
    "devices": "gpus n_gpus num_gpus ngpu n_gpu num_devices nproc_per_node",
    "accelerator": "device",
    "accelerator=gpu": "cuda use_cuda gpu use_gpu",
    "accelerator=cpu": "cpu no_cuda use_cpu",
    "strategy=ddp": "ddp distributed",
    "strategy=fsdp": "fsdp deepspeed",
    "num_nodes": "nodes nnodes n_nodes",
    "run_dir": "output_dir out_dir save_dir log_dir logdir checkpoint_dir output outdir default_root_dir exp_dir",
    "optim.warmup_steps": "warmup warmup_iters num_warmup_steps warmup_ratio warmup_updates",
    "optim.weight_decay": "wd decay l2",
    "optim.schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule sched",
    "optim": "optimizer optimiser opt optimizer_name",
    "optim.betas": "beta1 beta2 adam_beta1 adam_beta2 adam_betas",
    "optim.eps": "epsilon adam_epsilon adam_eps",
    "trainer.gradient_clip_val": "grad_clip max_grad_norm clip clip_grad clip_norm grad_clip_norm gradient_clip",
    "trainer.accumulate_grad_batches": "gradient_accumulation_steps grad_accum accum_iter update_freq "
    "accumulation_steps",
    "trainer.val_every_n_steps": "eval_interval eval_steps val_check_interval eval_every val_interval "
    "validate_interval",
    "trainer.checkpoint_every_n_steps": "save_steps save_interval checkpoint_interval save_every ckpt_interval",
    "trainer.log_every_n_steps": "logging_steps log_interval log_every log_steps",
    "trainer.early_stopping_patience": "patience early_stopping early_stop",
    "trainer.keep_checkpoints": "save_total_limit save_top_k keep_last",
    "trainer.ema_decay": "ema",
    "trainer.activation_checkpointing": "gradient_checkpointing checkpoint_activations",
    "task.label_smoothing": "label_smoothing_factor smoothing",
    "tokenizer.vocab_size": "vocab vocabulary_size num_tokens n_vocab",
    "tokenizer.kind": "tokenizer_name tokenizer_type tokenization",
    "decoding.num_beams": "beam beam_size beams beam_width",
    "decoding.temperature": "temperature temp",
    "decoding.max_new_tokens": "max_gen_len max_generation_length generate_length",
    "seed": "random_seed manual_seed rng_seed",
    "data.num_workers": "workers num_workers dataloader_num_workers n_workers",
    "data": "dataset dataset_name data_name corpus",
    "data.root": "data_dir data_path datadir",
    "data.train": "train_file train_data train_path training_file trainset",
    "data.val": "val_file validation_file val_data dev_file valid valid_file validation dev",
    "data.test": "test_file test_data test_path testset",
    "task": "task_name task_type objective_name",
    "task=regression (for one number), or task=classification": "problem_type num_labels",
    "model": "model_name model_type model_size arch architecture",
    "init_from": "pretrained from_pretrained model_name_or_path init_checkpoint load_from finetune_from checkpoint",
    "resume": "resume_from_checkpoint resume_from ckpt_path ckpt continue resume_path",
    "lora.r": "lora_r lora_rank rank adapter_rank",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.target_modules": "lora_target_modules lora_targets",
    "lora.also_train": "modules_to_save",
    "logger": "report_to wandb use_wandb tracker tensorboard",
    "compile": "torch_compile jit",
    "plan": "dry_run dryrun",
    "config_dir": "conf_dir config_path",
}
"""Each key of ours, or key and value, with other frameworks' words for it; only their last part."""
SYNONYMS = {word: ours for ours, words in OURS.items() for word in words.split()}
VERBS = {
    "train": "fit run learn pretrain finetune",
    "evaluate": "test eval validate score benchmark",
    "predict": "generate translate summarize classify infer inference decode sample",
    "export": "convert onnx",
    "runs": "list ls status history",
    "sweep": "tune search optimize hpo",
    "study": "experiment ablate ablation ab ladder scaling",
    "verify": "audit",
    "reproduce": "replicate repeat rerun",
    "explain": "config describe",
    "new": "create init scaffold template",
    "show": "browse page demo ui view",
}
"""Each command of ours with other frameworks' words for it."""
VERB_SYNONYMS = {word: ours for ours, words in VERBS.items() for word in words.split()}
