"""One machine's processes: a supervisor that computes nothing, a zygote that has imported everything, and workers forked from it.

    supervisor ── holds the listening sockets, watches, replaces, drains, reloads
      ├── zygote ── imports once, starts no thread, opens nothing; asked for a worker, it forks one
      ├── worker ── its own service; accepts from the shared sockets, tells twice a second that it lives
      └── worker ── …

Workers are the supervisor's own children (it adopts them from the zygote): the kernel ends them with it, and it learns how each of
them ended.
"""
