"""Who may go to which engine, and when: the queue, the order, the room. No sockets."""
