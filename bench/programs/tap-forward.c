/*
 * tap-forward LEFT RIGHT: the least that a process between two TAP interfaces can do, a peer of M1 to M3. It copies packets of up
 * to 64 KiB with their offload headers from one to the other, knows nothing of what they are, and prints "joined" when it is ready.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LARGEST 65664
/* Packets of one device before the other has its turn. */
#define TURN 64

static int tap(const char *name) {
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  const int header = 10;
  const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 ||
      ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0) {
    perror(name);
    return -1;
  }
  return fd;
}

int main(int count, char **arguments) {
  static char packet[LARGEST];
  struct pollfd ends[2];

  if (count != 3) {
    fprintf(stderr, "usage: tap-forward LEFT RIGHT\n");
    return 2;
  }
  for (int i = 0; i < 2; i++) {
    ends[i] = (struct pollfd){.fd = tap(arguments[1 + i]), .events = POLLIN};
    if (ends[i].fd < 0) return 1;
  }
  printf("joined\n");
  fflush(stdout);
  while (poll(ends, 2, -1) > 0 || errno == EINTR) {
    for (int i = 0; i < 2; i++) {
      for (int turn = 0; turn < TURN; turn++) {
        const ssize_t length = read(ends[i].fd, packet, sizeof packet);
        /* What is down or full drops, as a wire does. */
        if (length <= 0 || (write(ends[1 - i].fd, packet, (size_t)length) < 0 && errno == EBADFD)) break;
      }
    }
  }
  return 1;
}
