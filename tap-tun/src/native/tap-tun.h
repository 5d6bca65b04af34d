#ifndef TAP_TUN_H
#define TAP_TUN_H

#include <net/if.h>
#include <stdint.h>

/* A system call that failed; `call` is NULL when none did. */
struct tt_failure {
  const char *call;
  int err;
};

/* Bits of tt_open_request.flags, the same numbers in src/native.ts. */
#define TT_TUN 1
#define TT_VNET_HDR 2
#define TT_MULTI_QUEUE 4
#define TT_PERSIST 8
#define TT_NEW 16          /* fail with EBUSY when the name exists */
#define TT_PACKET 32       /* an AF_PACKET socket on an existing interface instead of a TUN device */
#define TT_RECEIVE_OWN 64  /* packet socket: see what this host sends, too */
#define TT_QDISC_BYPASS 128
#define TT_EXISTING 256    /* fail with ENODEV when the name does not exist */
#define TT_PROMISCUOUS 512 /* packet socket: frames for other hosts, too, until the socket is closed */

struct tt_open_request {
  const char *netns; /* path of a network namespace, NULL for the caller's */
  char name[IFNAMSIZ]; /* in: wanted name, may hold %d or be empty; out: actual name */
  unsigned flags;
  unsigned offload;  /* TUN_F_*; out: what the kernel accepted */
  int send_buffer;   /* bytes, 0 leaves the kernel's default */
  int receive_buffer; /* packet socket: bytes, 0 leaves the default */
  /* results */
  int fd;
  int ctl; /* datagram socket of the same namespace, for interface ioctls */
  int index;
  struct tt_failure failure;
};

/* Opens as described, in a helper thread when a namespace is named. 0, or -1 with request->failure set and nothing left open. */
int tt_open(struct tt_open_request *request);

/* Attributes of an interface, addressed by index through a socket of its namespace. Same numbers in src/native.ts. */
enum tt_attribute { TT_MTU = 0, TT_TXQLEN = 1, TT_UP = 2, TT_RUNNING = 3 };

int tt_get(int ctl, int index, enum tt_attribute what, int *value, struct tt_failure *failure);
int tt_set(int ctl, int index, enum tt_attribute what, int value, struct tt_failure *failure);
int tt_name(int ctl, int index, char name[IFNAMSIZ], struct tt_failure *failure);
int tt_get_mac(int ctl, int index, uint8_t mac[6], struct tt_failure *failure);
int tt_set_mac(int ctl, int index, const uint8_t mac[6], struct tt_failure *failure);
/* Sets the interface's first IPv4 address; both in network byte order. */
int tt_set_ipv4(int ctl, int index, uint32_t address, uint32_t mask, struct tt_failure *failure);

/* Frames that found the queue of this packet socket full since the last call. */
int tt_packet_drops(int fd, unsigned *drops);

/* Whether the TUN device of this descriptor outlives it. */
int tt_set_persist(int fd, int on, struct tt_failure *failure);

/* Opens /dev/net/tun, reads its features (IFF_*) and closes it. */
int tt_probe(unsigned *features, struct tt_failure *failure);

#endif
