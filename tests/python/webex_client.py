"""Uses the sandbox's Messages API through webexpythonsdk. The first request must get a 429 with Retry-After: 2."""

import sys
import time
import warnings

from webexpythonsdk import ApiError, WebexAPI
from webexpythonsdk.exceptions import RateLimitWarning

URL, TOKEN = sys.argv[1:3]
EXPERT = "expert@example.com"
CARD = {
    "contentType": "application/vnd.microsoft.card.adaptive",
    "content": {
        "type": "AdaptiveCard",
        "version": "1.3",
        "body": [{"type": "TextBlock", "text": "Ana is waiting"}],
        "actions": [{"type": "Action.OpenUrl", "title": "Join session", "url": "https://instant.webex.com/visit/oCVp2LD"}],
    },
}

api = WebexAPI(access_token=TOKEN, base_url=URL + "v1/")

me = api.people.me()
assert me.type == "bot" and me.emails, me

start = time.monotonic()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    message = api.messages.create(toPersonEmail=EXPERT, markdown="Ana is waiting", attachments=[CARD])
assert any(issubclass(warning.category, RateLimitWarning) for warning in caught), caught
assert time.monotonic() - start >= 2
assert message.roomType == "direct" and message.created is not None, message

listed = list(api.messages.list_direct(personEmail=EXPERT))
assert [one.id for one in listed] == [message.id], listed
assert listed[0].attachments[0]["content"] == CARD["content"], listed

for number in range(3):
    api.messages.create(roomId=message.roomId, text=str(number))
pages = [one.text for one in api.messages.list(message.roomId, max=2)]
assert pages == ["2", "1", "0", "Ana is waiting"], pages
assert api.messages.get(message.id).id == message.id

try:
    api.messages.create(toPersonEmail=EXPERT)
except ApiError as error:
    assert error.status_code == 400 and error.tracking_id, error
else:
    raise AssertionError("a message without content was accepted")

print("ok")
