"""Publishes an event whose headers contain arrays nested as deep as one frame can carry, or a header of a given size.

deep.py URL EXCHANGE KEY ID BODY array DEPTH | text BYTES
"""

import struct
import sys

import pika
import pika.data

URL, EXCHANGE, KEY, ID, BODY, KIND, NUMBER = sys.argv[1:8]


def nested(depth):
    """An array nested `depth` times: each level has a tag and the number of bytes that follow."""
    value = b"V"
    parts = [b"A" + struct.pack(">I", 5 * n + 1) for n in range(depth)]
    return b"".join(reversed(parts)) + value


value = nested(int(NUMBER)) if KIND == "array" else b"S" + struct.pack(">I", int(NUMBER)) + b"x" * int(NUMBER)
table = b"\x04deep" + value


def encode(pieces, _):
    pieces.append(struct.pack(">I", len(table)) + table)
    return 4 + len(table)


connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
channel.confirm_delivery()
properties = pika.BasicProperties(message_id=ID, delivery_mode=2, headers={"deep": None})
pika.data.encode_table = encode
channel.basic_publish(EXCHANGE, KEY, BODY.encode(), properties, mandatory=True)
connection.close()
