"""Opens the sandbox's ciphers with jwcrypto: all algorithms of the Guide, and the defaults."""

import hashlib
import itertools
import json
import sys
import urllib.request

from jwcrypto import jwa, jwe, jwk, jws

URL, TOKEN, PASSWORD = sys.argv[1:4]
AUD = "a4d886b0-979f-4e2c-a958-3e8c14605e51"
JWE_ALGS = ["PBES2-HS256+A128KW", "PBES2-HS384+A192KW", "PBES2-HS512+A256KW"]
ENCS = ["A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512", "A128GCM", "A192GCM", "A256GCM"]
JWS_ALGS = ["HS256", "HS384", "HS512"]

# The Guide allows up to 32767 iterations; jwcrypto's default limit is 16384.
jwa.default_max_pbkdf2_iterations = 32767


def ask(**options):
    body = {"jwt": {"sub": "visit-1"}, "aud": AUD, **options}
    request = urllib.request.Request(
        URL + "api/v2/joseencrypt",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as response:
        return json.load(response)


def open_cipher(cipher):
    """Returns both headers and the claims."""
    outer = jwe.JWE(algs=JWE_ALGS + ENCS)
    outer.deserialize(cipher, jwk.JWK.from_password(PASSWORD))
    signing_key = jwk.JWK(kty="oct", k=jwk.base64url_encode(hashlib.sha512(PASSWORD.encode()).digest()))
    inner = jws.JWS()
    inner.deserialize(outer.payload.decode(), signing_key)
    return outer.jose_header, inner.jose_header, json.loads(inner.payload)


def check(answer, **expected):
    opened = 0
    for role in ("host", "guest"):
        for made in answer[role]:
            outer, inner, claims = open_cipher(made["cipher"])
            assert outer["cty"] == "JWT", outer
            assert claims["sub"] == "visit-1" and claims["aud"] == AUD and claims["role"] == role, claims
            assert 1000 <= outer["p2c"] <= 32767, outer
            assert 8 <= len(jwk.base64url_decode(outer["p2s"])) <= 128, outer
            seen = {**{key: outer[key] for key in ("alg", "enc", "p2c")}, "jws": inner["alg"]}
            for key, value in expected.items():
                assert seen[key] == value, (key, value, seen)
            opened += 1
    return opened


calls = opened = 0
for jwe_alg, enc, jws_alg in itertools.product(JWE_ALGS, ENCS, JWS_ALGS):
    answer = ask(jweAlg=jwe_alg, enc=enc, jwsAlg=jws_alg, saltLength=8, iterations=1000)
    opened += check(answer, alg=jwe_alg, enc=enc, jws=jws_alg, p2c=1000)
    calls += 1
opened += check(ask(numHost=3, numGuest=5), alg="PBES2-HS512+A256KW", enc="A256GCM", jws="HS512")
opened += check(ask(saltLength=128, iterations=32767), p2c=32767)
calls += 2
print(f"opened {opened} ciphers of {calls} calls")
