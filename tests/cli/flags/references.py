"""The command-line arguments of the references' trainers. Each must be known to `tessera train`."""

LISA = """local_rank version vis_save_path precision image_size model_max_length lora_r vision-tower load_in_8bit
load_in_4bit dataset sample_rates sem_seg_data refer_seg_data vqa_data reason_seg_data val_dataset dataset_dir
log_base_dir exp_name epochs steps_per_epoch batch_size grad_accumulation_steps val_batch_size workers lr ce_loss_weight
dice_loss_weight bce_loss_weight lora_alpha lora_dropout lora_target_modules explanatory beta1 beta2
num_classes_per_sample exclude_val no_eval eval_only vision_pretrained out_dim resume print_freq start_epoch
gradient_checkpointing train_mask_decoder use_mm_start_end auto_resume conv_type""".split()

# llava/train/train.py of haotian-liu/LLaVA and of apple/ml-fastvlm: ModelArguments, DataArguments, TrainingArguments.
LLAVA = """model_name_or_path version freeze_backbone tune_mm_mlp_adapter tune_mm_mlp_and_vision_tower
unfreeze_mm_vision_tower vision_tower mm_vision_select_layer mm_vision_select_feature pretrain_mm_mlp_adapter
mm_projector_type mm_use_im_start_end mm_use_im_patch_token mm_patch_merge_type s2 hd data_path image_folder
lazy_preprocess is_multimodal image_aspect_ratio image_grid_pinpoints image_crop_resolution image_split_resolution
cache_dir optim remove_unused_columns freeze_mm_mlp_adapter mpt_attn_impl model_max_length bits double_quant quant_type
lora_enable lora_r lora_alpha lora_dropout lora_bias lora_weight_path mm_projector_lr mm_vision_tower_lr
group_by_modality_length""".split()

# What scripts/*.sh of LLaVA give transformers' TrainingArguments, and what else of them changes a training.
TRANSFORMERS = """output_dir num_train_epochs per_device_train_batch_size per_device_eval_batch_size
gradient_accumulation_steps evaluation_strategy eval_strategy eval_steps save_strategy save_steps save_total_limit
learning_rate weight_decay warmup_ratio warmup_steps lr_scheduler_type logging_steps tf32 bf16 fp16
gradient_checkpointing dataloader_num_workers report_to deepspeed max_steps seed data_seed adam_beta1 adam_beta2
adam_epsilon max_grad_norm optim overwrite_output_dir do_train do_eval logging_dir logging_strategy run_name
save_safetensors load_best_model_at_end dataloader_drop_last dataloader_pin_memory group_by_length
label_smoothing_factor neftune_noise_alpha fsdp ddp_timeout torch_compile push_to_hub resume_from_checkpoint
ignore_data_skip full_determinism local_rank""".split()
