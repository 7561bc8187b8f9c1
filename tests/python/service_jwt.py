"""Reads a JWT for Webex Connect as its documentation describes: HS256, secret in base64, `iss`, `iat` and a short life."""

import base64
import json
import sys
import time

from jwcrypto import jwk, jwt

TOKEN, ISSUER, SECRET = sys.argv[1:4]

key = jwk.JWK(kty="oct", k=base64.urlsafe_b64encode(base64.b64decode(SECRET)).decode())
read = jwt.JWT(jwt=TOKEN, key=key, algs=["HS256"], check_claims={"iss": ISSUER, "iat": None, "exp": None})
claims = json.loads(read.claims)
assert json.loads(read.header) == {"alg": "HS256", "typ": "JWT"}, read.header
assert set(claims) == {"iss", "iat", "exp"}, claims
assert 0 <= time.time() - claims["iat"] < 120, claims
assert claims["exp"] - claims["iat"] <= 3600, claims
print("ok")
