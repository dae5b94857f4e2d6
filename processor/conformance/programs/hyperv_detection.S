# How guests find the interface: the vendor leaf, its version, what it offers, and what it does not.
# mode: long
# hyperv: yes
# expect: 0x80000000 0x40000006 0x7263694d 0x666f736f 0x76482074 0x31237648
# expect: 0xae6 0x30 0x500 0x230 0xfff 0x1 0x0 0x99
.include "hyperv.inc"
main:
    movl $1, %eax
    cpuid
    andl $0x80000000, %ecx
    report %ecx
    movl $0x40000000, %eax
    cpuid
    outl %eax, $0x80
    report %ebx
    report %ecx
    report %edx
    movl $0x40000001, %eax
    cpuid
    outl %eax, $0x80
    movl $0x40000003, %eax
    cpuid
    outl %eax, $0x80
    report %ebx
    report %edx
    movl $0x40000004, %eax
    cpuid
    outl %eax, $0x80
    report %ebx
    movl $0x40000005, %eax
    cpuid
    outl %eax, $0x80
    movl $0x40000006, %eax
    cpuid
    outl %eax, $0x80
    report $0x99
    finish
