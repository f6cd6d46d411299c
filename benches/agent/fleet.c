// fleet: synthetic LwM2M devices over UDP, or over DTLS 1.2 with PSK by OpenSSL, for script/bench-agent. It shares no code with
// the agent, so that the two cannot be wrong in the same way.
//
//   fleet -p PORT [-h ADDRESS] [-n DEVICES] [-f FIRST] [-C AT_ONCE] [-d SECONDS] [-P PERIOD] [-c] [-L] [-k KEY]
//     -f   the number of the first device, so that several fleets are one
//     -C   how many may be between their first datagram and being registered
//     -P   seconds between two notifications of a device, for each observation
//     -c   notifications are confirmable, and not sent again
//     -L   every device sends one Update after the other
//     -k   DTLS with this key (hexadecimal); the PSK identity is the endpoint name, lwNNNNNN
//
// A device registers, answers Read and Observe of /3303/0/5700 and of /3, notifies, updates, and sends again what is not
// answered. Its value is the time of sending (CLOCK_REALTIME in seconds), so whoever sees it knows how long it took. What
// happened is printed as one JSON object.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { URI_PATH = 11, URI_QUERY = 15, CONTENT_FORMAT = 12, ACCEPT = 17, OBSERVE = 6, LOCATION_PATH = 8 };
enum { GET = 1, POST = 2, FETCH = 5, CREATED = 0x41, CHANGED = 0x44, CONTENT = 0x45, NOT_FOUND = 0x84 };
enum { TEXT = 0, SENML_CBOR = 112, TLV = 11542 };
enum { SEGMENTS = 4, SEGMENT = 24, OBSERVATIONS = 2, DATAGRAM = 2048, SAMPLES = 4000000 };

enum state { HANDSHAKING, REGISTERING, REGISTERED, DEAD };
enum request { NONE, REGISTER, UPDATE };

struct observation {
    uint8_t token[8], token_length;
    uint16_t format;
    uint32_t sequence;
};

struct device {
    int socket, index;
    SSL *session;
    enum state state;
    enum request waiting;
    int tries;
    double handshake_began, asked, sent, notify_at;
    uint16_t message_id;
    char location[SEGMENTS][SEGMENT];
    int segments;
    struct observation observations[OBSERVATIONS];
    int observed;
    uint8_t request[256];
    size_t request_length;
};

struct samples {
    const char *name;
    float *milliseconds;
    size_t count;
};

static const char *address = "127.0.0.1";
static int port, devices = 10, first, at_once = 50;
static double duration = 10, period;
static bool closed_loop, confirmable;
static uint8_t key[64];
static unsigned key_length;
static SSL_CTX *tls;
static int epoll, under_way;
static unsigned long up, dead, refused, again, observed, notified, acknowledged, updated;
static struct samples handshake = {.name = "handshake"}, registering = {.name = "register"}, updating = {.name = "update"};

static double seconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static double now(void) { return seconds(CLOCK_MONOTONIC); }

static void sample(struct samples *samples, double took) {
    if (samples->count < SAMPLES)
        samples->milliseconds[samples->count++] = took * 1e3;
}

// ---- messages

// A CoAP message that grows. Options are added in the order of their numbers.
struct message {
    uint8_t bytes[256];
    size_t length;
    int last_option;
};

static void begin(struct message *message, int type, int code, uint16_t id, const void *token, size_t token_length) {
    uint8_t header[4] = {0x40 | type << 4 | token_length, code, id >> 8, id};
    memcpy(message->bytes, header, 4);
    memcpy(message->bytes + 4, token, token_length);
    message->length = 4 + token_length;
    message->last_option = 0;
}

// No delta is above 12 here, and no value longer than 268 bytes.
static void add(struct message *message, int number, const void *value, size_t length) {
    uint8_t *at = message->bytes + message->length;
    *at++ = (number - message->last_option) << 4 | (length < 13 ? length : 13);
    if (length >= 13)
        *at++ = length - 13;
    memcpy(at, value, length);
    message->length = at + length - message->bytes;
    message->last_option = number;
}

static void add_text(struct message *message, int number, const char *text) { add(message, number, text, strlen(text)); }

static void add_number(struct message *message, int number, uint32_t value) {
    uint8_t bytes[4] = {value >> 24, value >> 16, value >> 8, value};
    int zeros = value >> 24 ? 0 : value >> 16 ? 1 : value >> 8 ? 2 : value ? 3 : 4;
    add(message, number, bytes + zeros, 4 - zeros);
}

static void add_payload(struct message *message, const void *payload, size_t length) {
    message->bytes[message->length++] = 0xff;
    memcpy(message->bytes + message->length, payload, length);
    message->length += length;
}

// The value of /3303/0/5700.
static void add_value(struct message *message, int format) {
    double value = seconds(CLOCK_REALTIME);
    add_number(message, CONTENT_FORMAT, format);
    if (format == TEXT) {
        char text[32];
        add_payload(message, text, snprintf(text, sizeof text, "%.6f", value));
        return;
    }
    uint64_t bits;
    memcpy(&bits, &value, 8);
    // [{0: "/3303/0/5700", 2: a double}] (RFC 8428 §6), or a resource with a value of 8 bytes (LwM2M Core 1.1 §7.4.3), in which
    // 5700 is 0x1644.
    static const char senml[] = "\x81\xa2\x00\x6c/3303/0/5700\x02\xfb", tlv[] = "\xe8\x16\x44\x08";
    uint8_t bytes[sizeof senml + 8];
    size_t length = format == SENML_CBOR ? sizeof senml - 1 : sizeof tlv - 1;
    memcpy(bytes, format == SENML_CBOR ? senml : tlv, length);
    for (int shift = 56; shift >= 0; shift -= 8)
        bytes[length++] = bits >> shift;
    add_payload(message, bytes, length);
}

static void transmit(struct device *device, const void *bytes, size_t length) {
    // One that is lost is sent again, as on any network.
    if (device->session)
        SSL_write(device->session, bytes, length);
    else if (send(device->socket, bytes, length, 0) < 0)
        return;
}

// ---- what a device says

static void name(const struct device *device, char *text, size_t size) { snprintf(text, size, "lw%06d", device->index); }

static void ask(struct device *device, enum request what) {
    struct message message;
    begin(&message, 0, POST, ++device->message_id, &device->index, 4);
    if (what == REGISTER) {
        char endpoint[16], query[20];
        name(device, endpoint, sizeof endpoint);
        snprintf(query, sizeof query, "ep=%s", endpoint);
        add_text(&message, URI_PATH, "rd");
        add_number(&message, CONTENT_FORMAT, 40);
        add_text(&message, URI_QUERY, query);
        add_text(&message, URI_QUERY, "lt=300");
        add_text(&message, URI_QUERY, "lwm2m=1.1");
        add_text(&message, URI_QUERY, "b=U");
        add_payload(&message, "</1/0>,</3/0>,</3303/0>", 23);
    } else {
        for (int i = 0; i < device->segments; i++)
            add_text(&message, URI_PATH, device->location[i]);
    }
    memcpy(device->request, message.bytes, message.length);
    device->request_length = message.length;
    device->waiting = what;
    device->tries = 0;
    device->asked = device->sent = now();
    transmit(device, message.bytes, message.length);
}

static void notify(struct device *device, struct observation *observation) {
    struct message message;
    begin(&message, confirmable ? 0 : 1, CONTENT, ++device->message_id, observation->token, observation->token_length);
    add_number(&message, OBSERVE, ++observation->sequence & 0xffffff);
    add_value(&message, observation->format);
    transmit(device, message.bytes, message.length);
    notified++;
}

static void end(struct device *device) {
    if (device->state != REGISTERED)
        under_way--;
    device->state = DEAD;
    device->waiting = NONE;
    dead++;
    epoll_ctl(epoll, EPOLL_CTL_DEL, device->socket, NULL);
}

// ---- what a device hears

// What of a received message matters here.
struct heard {
    int type, code;
    uint16_t id;
    const uint8_t *token;
    size_t token_length;
    int observe, accept, path_segments, location_segments;
    char path[SEGMENTS][SEGMENT], location[SEGMENTS][SEGMENT];
};

static int number(const uint8_t *bytes, size_t length) {
    int value = 0;
    while (length--)
        value = value << 8 | *bytes++;
    return value;
}

static void keep(char segments[SEGMENTS][SEGMENT], int *count, const uint8_t *value, size_t length) {
    if (*count < SEGMENTS && length < SEGMENT) {
        memcpy(segments[*count], value, length);
        segments[(*count)++][length] = 0;
    }
}

// One of the extended lengths of RFC 7252 §3.1; false when the message ends in it.
static bool extend(int *value, const uint8_t **at, const uint8_t *end) {
    int bytes = *value == 13 ? 1 : *value == 14 ? 2 : 0;
    if (end - *at < bytes || *value == 15)
        return false;
    if (bytes)
        *value = (bytes == 1 ? 13 : 269) + number(*at, bytes);
    *at += bytes;
    return true;
}

static bool parse(struct heard *heard, const uint8_t *bytes, size_t length) {
    const uint8_t *at = bytes + 4, *end = bytes + length;
    if (length < 4 || (bytes[0] & 15) > 8 || end - at < (bytes[0] & 15))
        return false;
    *heard = (struct heard){.type = bytes[0] >> 4 & 3, .code = bytes[1], .id = number(bytes + 2, 2), .token = at,
                            .token_length = bytes[0] & 15, .observe = -1, .accept = -1};
    at += heard->token_length;
    for (int option = 0; at < end && *at != 0xff;) {
        int delta = *at >> 4, size = *at & 15;
        at++;
        if (!extend(&delta, &at, end) || !extend(&size, &at, end) || end - at < size)
            return false;
        option += delta;
        if (option == OBSERVE)
            heard->observe = number(at, size);
        else if (option == ACCEPT)
            heard->accept = number(at, size);
        else if (option == URI_PATH)
            keep(heard->path, &heard->path_segments, at, size);
        else if (option == LOCATION_PATH)
            keep(heard->location, &heard->location_segments, at, size);
        at += size;
    }
    return true;
}

static void hear_answer(struct device *device, const struct heard *heard) {
    if (heard->type == 0) {
        uint8_t acknowledgement[4] = {0x60, 0, heard->id >> 8, heard->id};
        transmit(device, acknowledgement, 4);
    }
    enum request request = device->waiting;
    double took = now() - device->asked;
    device->waiting = NONE;
    if (request == REGISTER && heard->code == CREATED) {
        sample(&registering, took);
        memcpy(device->location, heard->location, sizeof device->location);
        device->segments = heard->location_segments;
        device->state = REGISTERED;
        device->notify_at = now() + period * drand48();
        under_way--;
        up++;
        if (closed_loop)
            ask(device, UPDATE);
    } else if (request == UPDATE && heard->code == CHANGED) {
        sample(&updating, took);
        updated++;
        if (closed_loop)
            ask(device, UPDATE);
    } else if (request != NONE) {
        refused++;
        end(device);
    }
}

static struct observation *observe(struct device *device, const struct heard *heard) {
    for (int i = 0; i < device->observed; i++) {
        struct observation *it = &device->observations[i];
        if (it->token_length == heard->token_length && !memcmp(it->token, heard->token, it->token_length))
            return it;
    }
    if (device->observed == OBSERVATIONS)
        return NULL;
    struct observation *fresh = &device->observations[device->observed++];
    memcpy(fresh->token, heard->token, heard->token_length);
    fresh->token_length = heard->token_length;
    observed++;
    return fresh;
}

static void hear_request(struct device *device, const struct heard *heard) {
    struct message message;
    bool reads = heard->code == GET || heard->code == FETCH;
    bool value = reads && heard->path_segments == 3 && !strcmp(heard->path[0], "3303");
    bool known = reads && heard->path_segments == 3 && !strcmp(heard->path[0], "3");
    int code = value || known ? CONTENT : reads ? NOT_FOUND : CHANGED;
    // A confirmable request is answered in its acknowledgement.
    int type = heard->type == 0 ? 2 : 1;
    uint16_t id = heard->type == 0 ? heard->id : ++device->message_id;
    begin(&message, type, code, id, heard->token, heard->token_length);
    if (value) {
        int format = heard->accept == TEXT || heard->accept == SENML_CBOR ? heard->accept : TLV;
        struct observation *observation = heard->observe == 0 ? observe(device, heard) : NULL;
        if (observation) {
            observation->format = format;
            add_number(&message, OBSERVE, ++observation->sequence);
        }
        if (heard->observe == 1)
            device->observed = 0;
        add_value(&message, format);
    } else if (known) {
        add_number(&message, CONTENT_FORMAT, TEXT);
        add_payload(&message, "fleet", 5);
    }
    transmit(device, message.bytes, message.length);
}

static void hear(struct device *device, const uint8_t *bytes, size_t length) {
    struct heard heard;
    if (!parse(&heard, bytes, length))
        return;
    if (heard.code == 0) {
        acknowledged += heard.type == 2;
        return;
    }
    if (heard.code >= 0x40)
        hear_answer(device, &heard);
    else
        hear_request(device, &heard);
}

// ---- a device's life

static unsigned identify(SSL *session, const char *hint, char *identity, unsigned identity_size, unsigned char *secret,
                         unsigned secret_size) {
    (void)hint;
    name(SSL_get_app_data(session), identity, identity_size);
    unsigned length = key_length < secret_size ? key_length : secret_size;
    memcpy(secret, key, length);
    return length;
}

static void shake_hands(struct device *device) {
    int result = SSL_do_handshake(device->session);
    if (result == 1) {
        sample(&handshake, now() - device->handshake_began);
        device->state = REGISTERING;
        ask(device, REGISTER);
        return;
    }
    int error = SSL_get_error(device->session, result);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
        end(device);
}

// Takes what has come.
static void wake(struct device *device) {
    uint8_t bytes[DATAGRAM];
    if (device->state == HANDSHAKING)
        shake_hands(device);
    for (int i = 0; i < 16 && device->state != HANDSHAKING && device->state != DEAD; i++) {
        int length = device->session ? SSL_read(device->session, bytes, sizeof bytes)
                                     : (int)recv(device->socket, bytes, sizeof bytes, MSG_DONTWAIT);
        if (length <= 0)
            break;
        hear(device, bytes, length);
    }
}

static void start(struct device *device, int index) {
    // An address has ports for 20 000 devices.
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002 + index / 20000)};
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &there.sin_addr);
    device->index = index;
    device->message_id = random();
    device->socket = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (device->socket < 0 || bind(device->socket, (void *)&here, sizeof here) ||
        connect(device->socket, (void *)&there, sizeof there)) {
        perror("fleet: no socket");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = device};
    epoll_ctl(epoll, EPOLL_CTL_ADD, device->socket, &event);
    under_way++;
    if (!tls) {
        device->state = REGISTERING;
        ask(device, REGISTER);
        return;
    }
    BIO *wire = BIO_new_dgram(device->socket, BIO_NOCLOSE);
    BIO_ctrl(wire, BIO_CTRL_DGRAM_SET_CONNECTED, 0, &there);
    device->session = SSL_new(tls);
    SSL_set_app_data(device->session, device);
    SSL_set_bio(device->session, wire, wire);
    SSL_set_connect_state(device->session);
    device->state = HANDSHAKING;
    device->handshake_began = now();
    wake(device);
}

// Sends again what nobody has answered (RFC 7252 §4.2, RFC 6347 §4.2.4).
static void look_after(struct device *device, double time) {
    if (device->state == HANDSHAKING) {
        if (DTLSv1_handle_timeout(device->session) > 0)
            again++;
    } else if (device->waiting != NONE && time - device->sent > 2.0 * (1 << device->tries)) {
        if (device->tries++ == 4) {
            end(device);
        } else {
            device->sent = time;
            again++;
            transmit(device, device->request, device->request_length);
        }
    }
}

static void notify_if_due(struct device *device, double time) {
    if (device->state != REGISTERED || device->observed == 0 || time < device->notify_at)
        return;
    for (int i = 0; i < device->observed; i++)
        notify(device, &device->observations[i]);
    device->notify_at += period;
    // What is too far behind is not caught up with.
    if (device->notify_at < time - 2 * period)
        device->notify_at = time + period;
}

// ---- the fleet

static int by_size(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return a < b ? -1 : a > b;
}

static void print_samples(struct samples *samples) {
    size_t count = samples->count;
    if (count == 0)
        return;
    qsort(samples->milliseconds, count, sizeof(float), by_size);
    printf(",\"%s\":{\"n\":%zu,\"p50\":%.3f,\"p99\":%.3f}", samples->name, count, samples->milliseconds[count / 2],
           samples->milliseconds[count * 99 / 100]);
}

static void read_key(const char *text) {
    for (unsigned byte; key_length < sizeof key && sscanf(text, "%2x", &byte) == 1; text += 2) {
        key[key_length++] = byte;
        if (!text[1])
            break;
    }
    tls = SSL_CTX_new(DTLS_client_method());
    // CCM_8 is below what OpenSSL allows by default.
    if (!tls || !SSL_CTX_set_cipher_list(tls, "PSK-AES128-CCM8:@SECLEVEL=0")) {
        fprintf(stderr, "fleet: this OpenSSL has no PSK-AES128-CCM8\n");
        exit(1);
    }
    SSL_CTX_set_max_proto_version(tls, DTLS1_2_VERSION);
    SSL_CTX_set_psk_client_callback(tls, identify);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(tls, SSL_OP_NO_TICKET);
}

static void read_arguments(int count, char **words) {
    for (int option; (option = getopt(count, words, "h:p:n:f:C:d:P:cLk:")) != -1;) {
        switch (option) {
        case 'h': address = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'n': devices = atoi(optarg); break;
        case 'f': first = atoi(optarg); break;
        case 'C': at_once = atoi(optarg); break;
        case 'd': duration = atof(optarg); break;
        case 'P': period = atof(optarg); break;
        case 'c': confirmable = true; break;
        case 'L': closed_loop = true; break;
        case 'k': read_key(optarg); break;
        default: exit(64);
        }
    }
    if (port <= 0 || devices <= 0 || at_once <= 0) {
        fprintf(stderr, "fleet -p PORT [-h ADDRESS] [-n DEVICES] [-f FIRST] [-C AT_ONCE] [-d SECONDS] [-P PERIOD] [-c] [-L] [-k KEY]\n");
        exit(64);
    }
}

int main(int count, char **words) {
    read_arguments(count, words);
    struct rlimit files = {devices + 100, devices + 100};
    if (setrlimit(RLIMIT_NOFILE, &files))
        perror("fleet: few files may be open");
    struct device *fleet = calloc(devices, sizeof *fleet);
    struct samples *all[] = {&handshake, &registering, &updating};
    for (int i = 0; i < 3; i++)
        all[i]->milliseconds = malloc(SAMPLES * sizeof(float));
    epoll = epoll_create1(0);

    struct epoll_event events[512];
    double began = now(), look_at = began, complete = 0;
    int made = 0, next = 0;
    for (double time = began; time < began + duration; time = now()) {
        for (; made < devices && under_way < at_once; made++)
            start(&fleet[made], first + made);
        int ready = epoll_wait(epoll, events, 512, 1);
        for (int i = 0; i < ready; i++)
            wake(events[i].data.ptr);
        if (complete == 0 && up == (unsigned long)devices)
            complete = now() - began;
        time = now();
        // A quarter of them each time: who is late is late by a few milliseconds at most.
        for (int i = 0; period > 0 && i < made / 4 + 1; i++)
            notify_if_due(&fleet[next++ % made], time);
        next %= made;
        if (time >= look_at) {
            look_at = time + 0.1;
            for (int i = 0; i < made; i++)
                look_after(&fleet[i], time);
        }
    }

    printf("{\"devices\":%d,\"up\":%lu,\"dead\":%lu,\"refused\":%lu,\"again\":%lu,\"observed\":%lu,\"notified\":%lu,\"acknowledged\":%lu,"
           "\"updated\":%lu,\"complete\":%.4f,\"elapsed\":%.4f",
           devices, up, dead, refused, again, observed, notified, acknowledged, updated, complete, now() - began);
    for (int i = 0; i < 3; i++)
        print_samples(all[i]);
    printf("}\n");
}
