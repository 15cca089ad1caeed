"""Offline search for head patterns (arXiv 2407.02490, Algorithm 1): the library scores, this runs the model and chooses.

scoring      the library's calls: what candidates cost and lose on given query, key and value; on_device, on a GPU
candidates   patterns to choose from, at equal cost
layers       query, key and value of every layer of a model
choose       the pattern of every head
driver       all of that, in order, resuming after a kill
report       what was found, and what the runner-up would have lost
capture, compare    a model's query, key and value in files, and every selection on these
"""
