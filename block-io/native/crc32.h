#ifndef BLOCK_IO_CRC32_H
#define BLOCK_IO_CRC32_H
#include <stddef.h>
#include <stdint.h>

/* Once, before the first `crc32`. */
void crc32_prepare(void);

/* CRC-32 as zlib, gzip and Ethernet have it (IEEE 802.3, reflected), continued from `crc`; 0 to begin. */
uint32_t crc32(uint32_t crc, const uint8_t *data, size_t length);

#endif
