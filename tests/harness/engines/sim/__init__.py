"""A stand-in for vLLM: its HTTP surface, its signals, its failures, and no model at all.

It is started by the same command line and answers on the same paths as vLLM 0.32, so that the
operator needs no special case. Its GPU is a lock on the node (`gpu`): a second engine that starts
while another is alive is written down as a violation and fails as it would on a card that is full.

What an engine does is set by environment variables (`behaviour` reads them):

    SIM_LOAD_SECONDS         how long loading takes, before the port opens (default 0)
    SIM_UNLOAD_SECONDS       how long the process lives on, GPU in hand, after it has drained (0)
    SIM_FIRST_TOKEN_SECONDS  time to the first token (0)
    SIM_SECONDS_PER_TOKEN    time between two tokens (0)
    SIM_TOKENS               tokens of an answer when the request sets no bound, or ignores the
                             end (16)
    SIM_FAULT                crash   exits once it would have loaded, with SIM_EXIT_CODE (1)
                             oom     prints a CUDA out-of-memory traceback then, and exits with 1
                             host-oom  takes memory of the node then, until its limit ends it
                             hang    never finishes loading
                             empty   serves, but every answer is one token without text
                             garbage serves, but every token is "!", and its probability zero, as of
                                     a model whose weights are corrupt
                             weights ends before it loads, as one without its weights
                             die     serves, but exits after SIM_DIE_AFTER_TOKENS (3) of an answer
    SIM_FAULT_TIMES          only the first N starts of this model on this node have the fault
    SIM_IGNORE_SIGTERM       1: only SIGKILL ends it
    SIM_GPU_DIR              the directory of the lock (/var/lib/modelserving-gpu)

A file behaviour.json in SIM_GPU_DIR, {model: {variable: value}}, overrides them for one model at
its next start: a test changes what the next load does without touching the custom resource.

Sleeping (VLLM_SERVER_DEV_MODE=1) lets go of the GPU and waking takes it again: an engine that
wakes while another holds it is a violation too, and dies.
"""
