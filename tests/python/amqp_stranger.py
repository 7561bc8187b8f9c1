"""Uses the worker as a client that knows only the exchange names of the contract: plain pika.

Publishes the JSON given as an argument, without any property, and prints the link that its own queue gets.
"""

import json
import sys

import pika

URL, PREFIX, EVENT = sys.argv[1:4]

connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, f"{PREFIX}.links", "guest.sms")

channel.confirm_delivery()
channel.basic_publish(f"{PREFIX}.sessions", "session.start", EVENT, mandatory=True)

for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=60):
    if method is None:
        sys.exit("no link within 60 s")
    print(json.dumps({"key": method.routing_key, "id": properties.message_id, "body": json.loads(body)}))
    break
connection.close()
