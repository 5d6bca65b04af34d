/*
 * lwip-server TAP ADDRESS MASK: lwIP behind a TAP, a peer of M4 and M5. It answers as bulk-server.mjs does on port 5201 and as
 * http-app.mjs does on port 80, and prints "ready". lwIP is Debian's library with its options (/usr/include/lwip/lwipopts.h): MTU
 * 1500, MSS 1460, window and send buffer 65 535, no offload. This is the shortest way through it: the raw API, and frames are read
 * and fed to it by one thread under the core lock, a batch at a time, with no mailbox between.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <lwip/etharp.h>
#include <lwip/ip.h>
#include <lwip/sys.h>
#include <lwip/tcp.h>
#include <lwip/tcpip.h>
#include <netif/ethernet.h>

#define BULK_PORT 5201
#define HTTP_PORT 80
#define FRAME_MTU 1500
#define LARGEST_FRAME 1536
/* Frames under one lock. */
#define TURN 64

static int device;

/* ---- the network interface ---- */

static err_t transmit(struct netif *netif, struct pbuf *packet) {
  char joined[LARGEST_FRAME];
  const void *frame = packet->payload;

  (void)netif;
  if (packet->tot_len > LARGEST_FRAME) return ERR_BUF;
  if (packet->next != NULL) {
    pbuf_copy_partial(packet, joined, packet->tot_len, 0);
    frame = joined;
  }
  /* What is down or full drops, as a wire does. */
  return write(device, frame, packet->tot_len) < 0 && errno == EBADFD ? ERR_IF : ERR_OK;
}

static err_t prepare(struct netif *netif) {
  static const u8_t mac[6] = {0x02, 0x00, 0x0a, 0x4f, 0x04, 0x02};

  memcpy(netif->hwaddr, mac, sizeof mac);
  netif->hwaddr_len = sizeof mac;
  netif->name[0] = 't';
  netif->name[1] = 'p';
  netif->mtu = FRAME_MTU;
  netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
  netif->output = etharp_output;
  netif->linkoutput = transmit;
  return ERR_OK;
}

static void feed(struct netif *netif) {
  static char frame[LARGEST_FRAME];

  for (int turn = 0; turn < TURN; turn++) {
    const ssize_t length = read(device, frame, sizeof frame);
    struct pbuf *packet;

    if (length <= 0) return;
    packet = pbuf_alloc(PBUF_RAW, (u16_t)length, PBUF_RAM);
    if (packet == NULL) continue;
    pbuf_take(packet, frame, (u16_t)length);
    if (netif->input(packet, netif) != ERR_OK) pbuf_free(packet);
  }
}

/* ---- bulk, port 5201 ---- */

struct bulk {
  char wanted;
  unsigned long long received;
};

static const char block[64 * 1024];

static void send_bulk(struct tcp_pcb *pcb) {
  for (;;) {
    const u16_t space = (u16_t)LWIP_MIN(tcp_sndbuf(pcb), sizeof block - 1);

    if (space == 0 || tcp_write(pcb, block, space, 0) != ERR_OK) break;
  }
  tcp_output(pcb);
}

static err_t bulk_sent(void *state, struct tcp_pcb *pcb, u16_t length) {
  (void)length;
  if (((struct bulk *)state)->wanted == 'o') send_bulk(pcb);
  return ERR_OK;
}

static err_t bulk_received(void *argument, struct tcp_pcb *pcb, struct pbuf *data, err_t fault) {
  struct bulk *state = argument;
  char answer[24];

  if (data == NULL || fault != ERR_OK) {
    /* Without the byte that says what is wanted. */
    const int length = snprintf(answer, sizeof answer, "%llu", state->received - 1);

    if (state->wanted == 'i') tcp_write(pcb, answer, (u16_t)length, TCP_WRITE_FLAG_COPY);
    tcp_arg(pcb, NULL);
    tcp_recv(pcb, NULL);
    tcp_sent(pcb, NULL);
    tcp_err(pcb, NULL);
    free(state);
    if (tcp_close(pcb) == ERR_OK) return ERR_OK;
    tcp_abort(pcb);
    return ERR_ABRT;
  }
  if (state->wanted == 0) {
    state->wanted = *(const char *)data->payload;
    if (state->wanted == 'o') send_bulk(pcb);
  }
  state->received += data->tot_len;
  tcp_recved(pcb, data->tot_len);
  pbuf_free(data);
  return ERR_OK;
}

static void gone(void *state, err_t fault) {
  (void)fault;
  free(state);
}

static err_t bulk_accepted(void *argument, struct tcp_pcb *pcb, err_t fault) {
  struct bulk *state = fault == ERR_OK ? calloc(1, sizeof *state) : NULL;

  (void)argument;
  if (state == NULL) return ERR_MEM;
  tcp_arg(pcb, state);
  tcp_recv(pcb, bulk_received);
  tcp_sent(pcb, bulk_sent);
  tcp_err(pcb, gone);
  return ERR_OK;
}

/* ---- HTTP, port 80: an answer for each empty line ---- */

static const char response[] =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 63\r\n"
    "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n"
    "{\"name\":\"bench\",\"text\":\"a small answer of an ordinary service\"}";

struct http {
  /* Bytes of CR LF CR LF seen last. */
  int seen;
};

static err_t http_received(void *argument, struct tcp_pcb *pcb, struct pbuf *data, err_t fault) {
  static const char end[4] = "\r\n\r\n";
  struct http *state = argument;

  if (data == NULL || fault != ERR_OK) {
    tcp_arg(pcb, NULL);
    tcp_recv(pcb, NULL);
    tcp_err(pcb, NULL);
    free(state);
    if (tcp_close(pcb) == ERR_OK) return ERR_OK;
    tcp_abort(pcb);
    return ERR_ABRT;
  }
  for (const struct pbuf *part = data; part != NULL; part = part->next) {
    const char *bytes = part->payload;

    for (u16_t at = 0; at < part->len; at++) {
      if (bytes[at] == end[state->seen]) state->seen++;
      else state->seen = bytes[at] == '\r' ? 1 : 0;
      if (state->seen < 4) continue;
      state->seen = 0;
      tcp_write(pcb, response, sizeof response - 1, 0);
    }
  }
  tcp_recved(pcb, data->tot_len);
  pbuf_free(data);
  tcp_output(pcb);
  return ERR_OK;
}

static err_t http_accepted(void *argument, struct tcp_pcb *pcb, err_t fault) {
  struct http *state = fault == ERR_OK ? calloc(1, sizeof *state) : NULL;

  (void)argument;
  if (state == NULL) return ERR_MEM;
  tcp_nagle_disable(pcb);
  tcp_arg(pcb, state);
  tcp_recv(pcb, http_received);
  tcp_err(pcb, gone);
  return ERR_OK;
}

/* ---- start ---- */

static int serve(u16_t port, tcp_accept_fn accepted) {
  struct tcp_pcb *pcb = tcp_new();

  if (pcb == NULL || tcp_bind(pcb, IP4_ADDR_ANY, port) != ERR_OK) return -1;
  pcb = tcp_listen_with_backlog(pcb, 255);
  if (pcb == NULL) return -1;
  tcp_accept(pcb, accepted);
  return 0;
}

static int open_tap(const char *name) {
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
  const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) {
    perror(name);
    return -1;
  }
  return fd;
}

static void started(void *semaphore) { sys_sem_signal(semaphore); }

int main(int count, char **arguments) {
  static struct netif netif;
  ip4_addr_t address, mask, none = {0};
  sys_sem_t running;
  struct pollfd tap;

  if (count != 4 || !ip4addr_aton(arguments[2], &address) || !ip4addr_aton(arguments[3], &mask)) {
    fprintf(stderr, "usage: lwip-server TAP ADDRESS MASK\n");
    return 2;
  }
  device = open_tap(arguments[1]);
  if (device < 0 || sys_sem_new(&running, 0) != ERR_OK) return 1;
  tcpip_init(started, &running);
  sys_sem_wait(&running);

  LOCK_TCPIP_CORE();
  if (netif_add(&netif, &address, &mask, &none, NULL, prepare, ethernet_input) == NULL ||
      serve(BULK_PORT, bulk_accepted) < 0 || serve(HTTP_PORT, http_accepted) < 0) {
    fprintf(stderr, "lwip-server: lwIP did not take the interface or a port\n");
    return 1;
  }
  netif_set_default(&netif);
  netif_set_up(&netif);
  UNLOCK_TCPIP_CORE();
  printf("ready\n");
  fflush(stdout);

  tap = (struct pollfd){.fd = device, .events = POLLIN};
  while (poll(&tap, 1, -1) > 0 || errno == EINTR) {
    LOCK_TCPIP_CORE();
    feed(&netif);
    UNLOCK_TCPIP_CORE();
  }
  return 1;
}
