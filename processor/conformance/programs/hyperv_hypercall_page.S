# The hypercall page: not before the guest has said who it is, moved, taken away; what it covered comes back.
# mode: long
# hyperv: yes
# expect: 0x0 0x200001 0xfa1e0ff3 0x2 0x3 0x12 0x4 0x5
# expect: 0x11223344 0xfa1e0ff3 0x2 0x55667788 0x0 0x99
.include "hyperv.inc"
main:
    movl $0x11223344, hypercall_page
    movl $0x55667788, 0x206000
    # No identity: the page stays off, and its port is nobody's.
    write_msr 0x40000001, hypercall_page + 1
    movl $0x40000001, %ecx
    rdmsr
    andl $1, %eax
    outl %eax, $0x80
    outl %eax, $0x51
    enable_hypercalls
    report_msr 0x40000001
    report hypercall_page
    # No such call; reps that the call does not have; no such connection; not aligned; beyond RAM.
    hypercall 0x7777, 0
    movabsq $0x10001005d, %rcx
    xorl %edx, %edx
    movl $hypercall_page, %eax
    call *%rax
    outl %eax, $0x80
    hypercall 0x1005d, 0x999
    hypercall 0x5c, input_page + 4
    hypercall 0x5c, 0xd0000000
    # Moved.
    write_msr 0x40000001, 0x206001
    report hypercall_page
    report 0x206000
    movl $0x7777, %ecx
    movl $0x206000, %eax
    call *%rax
    outl %eax, $0x80
    # The identity goes, and the page with it.
    write_msr 0x40000000, 0
    report 0x206000
    movl $0x40000001, %ecx
    rdmsr
    andl $1, %eax
    outl %eax, $0x80
    report $0x99
    finish
