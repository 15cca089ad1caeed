"""How the embedded model was made: corpus, tokenizer, sequences, network, optimizer."""
