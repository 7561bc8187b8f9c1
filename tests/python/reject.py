"""Rejects the first message of a queue, or gives it back (`requeue`), as a client in which no header can do harm."""

import sys

import pika
import pika.data

URL, QUEUE = sys.argv[1:3]

# The headers are not looked at, whatever is in them.
pika.data.decode_table = lambda encoded, offset: (
    {},
    offset + 4 + int.from_bytes(encoded[offset : offset + 4], "big"),
)
connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
method, _, _ = channel.basic_get(QUEUE)
channel.basic_reject(method.delivery_tag, requeue="requeue" in sys.argv[3:])
connection.close()
