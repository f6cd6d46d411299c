// One datagram over node-dtls-client, whose ClientHello has no extensions at all: HOST PORT IDENTITY KEY SUITE HEX. The key is
// text. Prints the answer in hexadecimal.
const { dtls } = require("node-dtls-client");

const [address, port, identity, key, suite, message] = process.argv.slice(2);
const socket = dtls
    .createSocket({ type: "udp4", address, port: Number(port), psk: { [identity]: key }, ciphers: [suite], timeout: 5000 })
    .on("connected", () => socket.send(Buffer.from(message, "hex")))
    .on("message", (answer) => {
        console.log(answer.toString("hex"));
        socket.close(() => process.exit(0));
        setTimeout(() => process.exit(0), 500);
    })
    .on("error", (error) => {
        console.error(String(error));
        process.exit(1);
    });
