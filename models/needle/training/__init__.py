"""How the embedded model was made: corpus, tokenizer, tasks, network, optimizer."""
