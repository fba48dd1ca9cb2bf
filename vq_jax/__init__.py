"""Vector-quantized image generation in JAX."""
