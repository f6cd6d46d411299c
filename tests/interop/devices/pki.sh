#!/bin/sh
# Certificates for one run, in the current folder: pki.sh DEVICE. All are ECDSA on P-256.
#   ca       our authority                     server   localhost's, by our authority
#   device   CN = DEVICE, by our authority     expired  the same, whose last day is over
#   other    CN = other, by our authority      rogue    CN = DEVICE, by an authority that nobody trusts
# NAME.pem and NAME.key are PEM, NAME.der and NAME.key.der (PKCS #8) DER.
set -eu
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }
authority() { # NAME
    key "$1"
    openssl req -x509 -new -key "$1.key" -subj "/CN=interop $1" -days 30 -out "$1.pem" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    openssl x509 -in "$1.pem" -outform DER -out "$1.der"
}
# `openssl x509` cannot sign for days that are over, `openssl ca` can.
cat >ca.conf <<'END'
[ca]
default_ca = it
[it]
database = issued
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
unique_subject = no
x509_extensions = leaf
[any]
commonName = supplied
[leaf]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
[server]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
# Californium takes no server's certificate that is not a client's too.
extendedKeyUsage = serverAuth,clientAuth
subjectAltName = DNS:localhost
END
: >issued
echo 1000 >serial
leaf() { # NAME CN AUTHORITY SECTION FROM TO
    key "$1"
    openssl req -new -key "$1.key" -subj "/CN=$2" -out "$1.csr"
    openssl ca -config ca.conf -batch -notext -cert "$3.pem" -keyfile "$3.key" -extensions "$4" \
        -startdate "$5" -enddate "$6" -in "$1.csr" -out "$1.pem"
    openssl x509 -in "$1.pem" -outform DER -out "$1.der"
    openssl pkcs8 -topk8 -nocrypt -in "$1.key" -outform DER -out "$1.key.der"
}
authority ca
authority rogue-ca
leaf server localhost ca server 20200101000000Z 20491231235959Z
leaf device "$1" ca leaf 20200101000000Z 20491231235959Z
leaf other other ca leaf 20200101000000Z 20491231235959Z
leaf expired "$1" ca leaf 20200101000000Z 20210101000000Z
leaf rogue "$1" rogue-ca leaf 20200101000000Z 20491231235959Z
