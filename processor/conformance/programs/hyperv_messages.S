# Messages: three at once come one by one, each after the end of the one before; the pending flag; a masked source.
# mode: long
# hyperv: yes
# expect: 0x0 0x0 0x0
# expect: 0xf3 0x7 0x103 0xaa0200 0xf3 0x7 0x103 0xbb0200 0xf3 0x7 0x3 0xcc0200
# expect: 0x0 0x7 0x3 0xdd0200 0x0 0x12 0x99
.include "hyperv.inc"
main:
    enable_apic
    # Stale contents must not block the slot.
    movl $0x1234, message_page + 0x200
    enable_hypercalls
    enable_synic 0xf3
    handle 0xf3, interrupted
    post 7, 0, 2, 0xaa
    post 7, 0, 2, 0xbb
    post 7, 0, 2, 0xcc
    sti
    nop
1:  cmpl $3, count
    jne 1b
    # Masked: the message is there, no interrupt comes.
    write_msr 0x40000092, 0x100f3
    post 7, 0, 2, 0xdd
    nop
    call take
    report message_page + 0x200
    # Nobody listens at connection 2.
    movl $2, input_page
    hypercall 0x5c, input_page
    report $0x99
    finish

# Reports type, size and flags, and payload of the message in the slot, and frees it.
take:
    report message_page + 0x200
    report message_page + 0x204
    report message_page + 0x210
    movl $0, message_page + 0x200
    mfence
    testl $0x100, message_page + 0x204
    jz 1f
    write_msr 0x40000084, 0
1:  ret

interrupted:
    addq $16, %rsp
    pushq %rax
    pushq %rcx
    pushq %rdx
    report $0xf3
    incl count
    end_interrupt
    call take
    popq %rdx
    popq %rcx
    popq %rax
    iretq
    .balign 4
count: .long 0
