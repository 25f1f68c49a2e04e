/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Ethernet addresses (IEEE 802): six bytes; the lowest bit of the first says group, the next one says that it was
 * made up locally. */
#ifndef KELPIE_BASE_MAC_H
#define KELPIE_BASE_MAC_H

#include <stdbool.h>
#include <stdint.h>

#define MAC_SIZE 6
#define MAC_TEXT_SIZE 18 /* "02:00:00:00:00:01" and a zero */

/* One host's: not a group's, and not all zeros. */
bool mac_is_host(const uint8_t mac[MAC_SIZE]);

/* Six pairs of hexadecimal digits between colons, and nothing else. False: it is not one; ret is as it was. */
bool mac_parse(const char *text, uint8_t ret_mac[MAC_SIZE]);
void mac_format(const uint8_t mac[MAC_SIZE], char ret_text[MAC_TEXT_SIZE]);

/* Six random bytes become a host's address that no maker has given away. */
void mac_make_local(uint8_t mac[MAC_SIZE]);

#endif
