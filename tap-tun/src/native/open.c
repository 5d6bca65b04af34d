/* Opening TUN/TAP devices and packet sockets, and the interface ioctls that `ip link set` would otherwise do. */
#define _GNU_SOURCE
#include "tap-tun.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Kernel 6.2; both must be asked for together. Older headers do not name them. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

static int fail(struct tt_failure *failure, const char *call) {
  failure->err = errno;
  failure->call = call;
  return -1;
}

static int open_tun(struct tt_open_request *r) {
  struct ifreq ifr;
  const int header_size = 10;

  r->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (r->fd < 0) return fail(&r->failure, "open");
  if ((r->flags & TT_EXISTING) && if_nametoindex(r->name) == 0) return fail(&r->failure, "if_nametoindex");
  memset(&ifr, 0, sizeof ifr);
  memcpy(ifr.ifr_name, r->name, IFNAMSIZ);
  /* IFF_TUN_EXCL is bit 15 of a signed short. */
  ifr.ifr_flags = (short)((r->flags & TT_TUN ? IFF_TUN : IFF_TAP) | IFF_NO_PI | (r->flags & TT_VNET_HDR ? IFF_VNET_HDR : 0) |
                          (r->flags & TT_MULTI_QUEUE ? IFF_MULTI_QUEUE : 0) | (r->flags & TT_NEW ? IFF_TUN_EXCL : 0));
  if (ioctl(r->fd, TUNSETIFF, &ifr) < 0) return fail(&r->failure, "TUNSETIFF");
  memcpy(r->name, ifr.ifr_name, IFNAMSIZ);
  if (r->flags & TT_VNET_HDR) {
    if (ioctl(r->fd, TUNSETVNETHDRSZ, &header_size) < 0) return fail(&r->failure, "TUNSETVNETHDRSZ");
    /* A persistent device keeps the offloads of whoever had it before, so zero is set, too. */
    if (ioctl(r->fd, TUNSETOFFLOAD, (unsigned long)r->offload) < 0) {
      const unsigned without_uso = r->offload & ~(unsigned)(TUN_F_USO4 | TUN_F_USO6);
      if (errno != EINVAL || without_uso == r->offload) return fail(&r->failure, "TUNSETOFFLOAD");
      if (ioctl(r->fd, TUNSETOFFLOAD, (unsigned long)without_uso) < 0) return fail(&r->failure, "TUNSETOFFLOAD");
      r->offload = without_uso;
    }
  } else {
    r->offload = 0;
    if (ioctl(r->fd, TUNSETOFFLOAD, 0ul) < 0) return fail(&r->failure, "TUNSETOFFLOAD");
  }
  if (r->send_buffer > 0 && ioctl(r->fd, TUNSETSNDBUF, &r->send_buffer) < 0) return fail(&r->failure, "TUNSETSNDBUF");
  if ((r->flags & TT_PERSIST) && ioctl(r->fd, TUNSETPERSIST, 1ul) < 0) return fail(&r->failure, "TUNSETPERSIST");
  return 0;
}

static int open_packet(struct tt_open_request *r) {
  struct sockaddr_ll address;
  const int one = 1;

  /* Protocol 0 receives nothing until bind() names interface and protocol at once: no frame of another interface gets in. */
  r->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (r->fd < 0) return fail(&r->failure, "socket");
  memset(&address, 0, sizeof address);
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = (int)if_nametoindex(r->name);
  if (address.sll_ifindex == 0) return fail(&r->failure, "if_nametoindex");
  if ((r->flags & TT_VNET_HDR) && setsockopt(r->fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) < 0)
    return fail(&r->failure, "PACKET_VNET_HDR");
  if (!(r->flags & TT_RECEIVE_OWN) && setsockopt(r->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) < 0)
    return fail(&r->failure, "PACKET_IGNORE_OUTGOING");
  if ((r->flags & TT_QDISC_BYPASS) && setsockopt(r->fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) < 0)
    return fail(&r->failure, "PACKET_QDISC_BYPASS");
  if (r->send_buffer > 0 && setsockopt(r->fd, SOL_SOCKET, SO_SNDBUFFORCE, &r->send_buffer, sizeof r->send_buffer) < 0)
    return fail(&r->failure, "SO_SNDBUFFORCE");
  if (r->receive_buffer > 0 &&
      setsockopt(r->fd, SOL_SOCKET, SO_RCVBUFFORCE, &r->receive_buffer, sizeof r->receive_buffer) < 0)
    return fail(&r->failure, "SO_RCVBUFFORCE");
  /* A tag does not stand in the frame but beside it. */
  if (setsockopt(r->fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one) < 0) return fail(&r->failure, "PACKET_AUXDATA");
  if (bind(r->fd, (struct sockaddr *)&address, sizeof address) < 0) return fail(&r->failure, "bind");
  if (r->flags & TT_PROMISCUOUS) {
    struct packet_mreq membership;
    memset(&membership, 0, sizeof membership);
    membership.mr_ifindex = address.sll_ifindex;
    membership.mr_type = PACKET_MR_PROMISC;
    if (setsockopt(r->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership) < 0)
      return fail(&r->failure, "PACKET_ADD_MEMBERSHIP");
  }
  r->offload = 0;
  return 0;
}

static int open_here(struct tt_open_request *r) {
  int result;

  r->ctl = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (r->ctl < 0 && errno == EAFNOSUPPORT) r->ctl = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (r->ctl < 0)
    result = fail(&r->failure, "socket");
  else
    result = r->flags & TT_PACKET ? open_packet(r) : open_tun(r);
  if (result == 0) {
    r->index = (int)if_nametoindex(r->name);
    if (r->index == 0) result = fail(&r->failure, "if_nametoindex");
  }
  if (result != 0) {
    if (r->fd >= 0) close(r->fd);
    if (r->ctl >= 0) close(r->ctl);
    r->fd = r->ctl = -1;
  }
  return result;
}

static void *open_elsewhere(void *argument) {
  struct tt_open_request *r = argument;
  int ns = open(r->netns, O_RDONLY | O_CLOEXEC);

  if (ns < 0) {
    fail(&r->failure, "open netns");
    return NULL;
  }
  /* setns() moves the calling thread only, and this thread ends at once: nobody else notices. */
  if (setns(ns, CLONE_NEWNET) < 0)
    fail(&r->failure, "setns");
  else
    open_here(r);
  close(ns);
  return NULL;
}

int tt_open(struct tt_open_request *r) {
  pthread_t thread;
  int err;

  r->fd = r->ctl = -1;
  r->index = 0;
  r->failure.call = NULL;
  r->failure.err = 0;
  if (r->netns == NULL) return open_here(r);
  err = pthread_create(&thread, NULL, open_elsewhere, r);
  if (err != 0) {
    errno = err;
    return fail(&r->failure, "pthread_create");
  }
  pthread_join(thread, NULL);
  return r->failure.call == NULL ? 0 : -1;
}

static int by_index(int ctl, int index, struct ifreq *ifr, struct tt_failure *failure) {
  memset(ifr, 0, sizeof *ifr);
  ifr->ifr_ifindex = index;
  if (ioctl(ctl, SIOCGIFNAME, ifr) < 0) return fail(failure, "SIOCGIFNAME");
  return 0;
}

int tt_name(int ctl, int index, char name[IFNAMSIZ], struct tt_failure *failure) {
  struct ifreq ifr;

  if (by_index(ctl, index, &ifr, failure) < 0) return -1;
  memcpy(name, ifr.ifr_name, IFNAMSIZ);
  return 0;
}

int tt_get(int ctl, int index, enum tt_attribute what, int *value, struct tt_failure *failure) {
  struct ifreq ifr;

  if (by_index(ctl, index, &ifr, failure) < 0) return -1;
  switch (what) {
    case TT_MTU:
      if (ioctl(ctl, SIOCGIFMTU, &ifr) < 0) return fail(failure, "SIOCGIFMTU");
      *value = ifr.ifr_mtu;
      return 0;
    case TT_TXQLEN:
      if (ioctl(ctl, SIOCGIFTXQLEN, &ifr) < 0) return fail(failure, "SIOCGIFTXQLEN");
      *value = ifr.ifr_qlen;
      return 0;
    case TT_UP:
    case TT_RUNNING:
      if (ioctl(ctl, SIOCGIFFLAGS, &ifr) < 0) return fail(failure, "SIOCGIFFLAGS");
      *value = (ifr.ifr_flags & (what == TT_UP ? IFF_UP : IFF_RUNNING)) != 0;
      return 0;
  }
  errno = EINVAL;
  return fail(failure, "get");
}

int tt_set(int ctl, int index, enum tt_attribute what, int value, struct tt_failure *failure) {
  struct ifreq ifr;

  if (by_index(ctl, index, &ifr, failure) < 0) return -1;
  switch (what) {
    case TT_MTU:
      ifr.ifr_mtu = value;
      if (ioctl(ctl, SIOCSIFMTU, &ifr) < 0) return fail(failure, "SIOCSIFMTU");
      return 0;
    case TT_TXQLEN:
      ifr.ifr_qlen = value;
      if (ioctl(ctl, SIOCSIFTXQLEN, &ifr) < 0) return fail(failure, "SIOCSIFTXQLEN");
      return 0;
    case TT_UP:
      if (ioctl(ctl, SIOCGIFFLAGS, &ifr) < 0) return fail(failure, "SIOCGIFFLAGS");
      ifr.ifr_flags = (short)(value ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
      if (ioctl(ctl, SIOCSIFFLAGS, &ifr) < 0) return fail(failure, "SIOCSIFFLAGS");
      return 0;
    case TT_RUNNING:
      break;
  }
  errno = EINVAL;
  return fail(failure, "set");
}

int tt_get_mac(int ctl, int index, uint8_t mac[6], struct tt_failure *failure) {
  struct ifreq ifr;

  if (by_index(ctl, index, &ifr, failure) < 0) return -1;
  if (ioctl(ctl, SIOCGIFHWADDR, &ifr) < 0) return fail(failure, "SIOCGIFHWADDR");
  memcpy(mac, ifr.ifr_hwaddr.sa_data, 6);
  return 0;
}

int tt_set_mac(int ctl, int index, const uint8_t mac[6], struct tt_failure *failure) {
  struct ifreq ifr;

  if (by_index(ctl, index, &ifr, failure) < 0) return -1;
  ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  memcpy(ifr.ifr_hwaddr.sa_data, mac, 6);
  if (ioctl(ctl, SIOCSIFHWADDR, &ifr) < 0) return fail(failure, "SIOCSIFHWADDR");
  return 0;
}

int tt_set_ipv4(int ctl, int index, uint32_t address, uint32_t mask, struct tt_failure *failure) {
  struct ifreq ifr;
  struct sockaddr_in in;

  if (by_index(ctl, index, &ifr, failure) < 0) return -1;
  memset(&in, 0, sizeof in);
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = address;
  memcpy(&ifr.ifr_addr, &in, sizeof in);
  if (ioctl(ctl, SIOCSIFADDR, &ifr) < 0) return fail(failure, "SIOCSIFADDR");
  in.sin_addr.s_addr = mask;
  memcpy(&ifr.ifr_netmask, &in, sizeof in);
  if (ioctl(ctl, SIOCSIFNETMASK, &ifr) < 0) return fail(failure, "SIOCSIFNETMASK");
  return 0;
}

int tt_packet_drops(int fd, unsigned *drops) {
  struct tpacket_stats stats;
  socklen_t length = sizeof stats;

  if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) < 0) return -1;
  *drops = stats.tp_drops;
  return 0;
}

int tt_set_persist(int fd, int on, struct tt_failure *failure) {
  if (ioctl(fd, TUNSETPERSIST, on ? 1ul : 0ul) < 0) return fail(failure, "TUNSETPERSIST");
  return 0;
}

int tt_probe(unsigned *features, struct tt_failure *failure) {
  int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  int result = 0;

  if (fd < 0) return fail(failure, "open");
  if (ioctl(fd, TUNGETFEATURES, features) < 0) result = fail(failure, "TUNGETFEATURES");
  close(fd);
  return result;
}
