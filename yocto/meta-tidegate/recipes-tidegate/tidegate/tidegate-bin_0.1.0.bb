SUMMARY = "Tidegate edge gateway daemon, built outside Yocto"
DESCRIPTION = "Takes a binary made by this repository's release build (see cross/README.md) and installs it with its \
units and its example configuration."
HOMEPAGE = "https://github.com/tidegate/tidegate"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# TIDEGATE_DIST: a folder with the binary `tidegate` for the target and, beside it, this repository's LICENSE,
# systemd/ and config/.
TIDEGATE_DIST ?= "${TOPDIR}/tidegate-dist"
FILESEXTRAPATHS:prepend := "${TIDEGATE_DIST}:"
SRC_URI = " \
    file://tidegate \
    file://LICENSE \
    file://systemd/tidegate.service \
    file://systemd/tidegate.sysusers.conf \
    file://systemd/tidegate.tmpfiles.conf \
    file://config/tidegate.toml \
"
S = "${UNPACKDIR}"

COMPATIBLE_HOST = "(aarch64|riscv64).*-linux"
inherit systemd
SYSTEMD_SERVICE:${PN} = "tidegate.service"

do_install() {
    install -D -m 0755 ${S}/tidegate ${D}${bindir}/tidegate
    install -D -m 0644 ${S}/systemd/tidegate.service ${D}${systemd_system_unitdir}/tidegate.service
    install -D -m 0644 ${S}/systemd/tidegate.sysusers.conf ${D}${nonarch_libdir}/sysusers.d/tidegate.conf
    install -D -m 0644 ${S}/systemd/tidegate.tmpfiles.conf ${D}${nonarch_libdir}/tmpfiles.d/tidegate.conf
    install -D -m 0640 ${S}/config/tidegate.toml ${D}${sysconfdir}/tidegate/tidegate.toml
}

FILES:${PN} += "${nonarch_libdir}/sysusers.d ${nonarch_libdir}/tmpfiles.d"
CONFFILES:${PN} = "${sysconfdir}/tidegate/tidegate.toml"
# The binary was stripped by its own build, which keeps the debug information apart.
INSANE_SKIP:${PN} = "already-stripped"
