"""Results on their way to destinations, and withdrawn from them."""
