"""What every service stands on: bus, gRPC, worker loop, service start and drain, settings, logs, metrics, tracing.

Anything that more than one service needs and that knows nothing of architectures or scores belongs here. Rules live in
`services/domain`, language models in `services/llm`, the archive's clients in `services/archive`.
"""
