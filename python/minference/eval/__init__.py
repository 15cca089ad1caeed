"""Accuracy of sparse prefill: tasks generated offline, a runner that resumes, paired comparisons with dense attention.

prompt        what a task hands to the runner: text, some of it scored
wording       RULER's published prompt forms, and the sentences that the embedded model was trained on
haystack      text to hide facts in
fitting       making a prompt as long as wanted
needles, records, middle, chains, counting, documents    the tasks; `tasks` lists them
settings      the attention that a model runs with
scoring       how right an answer is
runner, journal    samples in order, kept in a file, resumed after a kill
ahead         prompts made while others run
perplexity    the same for a text instead of tasks
statistics, summary, pictures    what the samples say
"""
