"""Rejects or requeues (`requeue`) the first message of a queue, with a client that ignores all headers."""

import sys

import pika
import pika.data

URL, QUEUE = sys.argv[1:3]

# Skips the headers without decoding them.
pika.data.decode_table = lambda encoded, offset: (
    {},
    offset + 4 + int.from_bytes(encoded[offset : offset + 4], "big"),
)
connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
method, _, _ = channel.basic_get(QUEUE)
channel.basic_reject(method.delivery_tag, requeue="requeue" in sys.argv[3:])
connection.close()
