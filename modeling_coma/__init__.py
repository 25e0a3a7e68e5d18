"""The part of CoMa that ships to the Hub with every checkpoint. It needs torch and transformers, nothing else."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_coma import TESTED_TRANSFORMERS, ComaConfig
from .memory_coma import CompressionMemory
from .modeling_coma import ComaForEmbedding, ComaOutput
from .processing_coma import ComaProcessor


# Installed, the Auto classes know CoMa without trust_remote_code; saved, a folder carries this code with it.
AutoConfig.register("coma", ComaConfig, exist_ok=True)
AutoModel.register(ComaConfig, ComaForEmbedding, exist_ok=True)
AutoProcessor.register(ComaConfig, ComaProcessor, exist_ok=True)
ComaConfig.register_for_auto_class()
ComaForEmbedding.register_for_auto_class("AutoModel")
ComaProcessor.register_for_auto_class()

__all__ = ["TESTED_TRANSFORMERS", "ComaConfig", "ComaForEmbedding", "ComaOutput", "ComaProcessor", "CompressionMemory"]
