"""Publishes a message whose id is not UTF-8. Client libraries with UTF-8 properties can neither send nor read it."""

import sys

import pika

URL, EXCHANGE, KEY = sys.argv[1:4]

connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
channel.confirm_delivery()
properties = pika.BasicProperties(message_id=b"\xff\xfe", delivery_mode=2)
channel.basic_publish(EXCHANGE, KEY, b"{}", properties, mandatory=True)
connection.close()
